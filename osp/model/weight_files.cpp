#include "osp/model/weight_files.h"

#include <fmt/ranges.h>

#include <set>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr size_t kMaxIndexBytes = 64 << 20;

// Opens a file and takes every tensor of it; the same name in two files is an error.
void add_file(WeightFiles& weights, const std::string& path) {
  weights.files.push_back(SafetensorsFile::open(path));
  for (const auto& [key, value] : weights.files.back().metadata()) weights.metadata[key] = value;
  for (const auto& [name, view] : weights.files.back().tensors()) {
    const auto [place, is_new] = weights.tensors.try_emplace(name, TensorSource{&view, path});
    if (!is_new) {
      fail(ErrorCode::damaged, "{}: tensor {} is also in {}", path, shown(name),
           place->second.file);
    }
  }
}

// The index's weight_map, tensor → file. A file's name must be a plain name: it never leads out of
// the folder.
std::map<std::string, std::string> read_weight_map(const std::string& path) {
  const Json index = read_json_file(path, kMaxIndexBytes);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    fail(ErrorCode::damaged, "{}: no object weight_map", path);
  }
  std::map<std::string, std::string> map;
  for (const auto& [tensor, file] : index["weight_map"].items()) {
    if (!file.is_string()) {
      fail(ErrorCode::damaged, "{}: the file of tensor {} is not a string", path, shown(tensor));
    }
    const std::string name = file.get<std::string>();
    const bool plain = name.find_first_of(std::string("/\\\0", 3)) == std::string::npos &&
                       name.find("..") == std::string::npos && name.ends_with(".safetensors");
    if (!plain) {
      fail(ErrorCode::damaged,
           "{}: tensor {} points to {}, expected the name of a .safetensors file in the folder",
           path, shown(tensor), shown(name));
    }
    map[tensor] = name;
  }
  return map;
}

WeightFiles open_sharded(const std::string& dir, const std::string& index_path) {
  // Open every file that the index names, each once.
  const std::map<std::string, std::string> map = read_weight_map(index_path);
  std::set<std::string> names;
  for (const auto& [tensor, file] : map) names.insert(file);
  WeightFiles weights;
  weights.where = index_path;
  weights.files.reserve(names.size());
  for (const std::string& name : names) {
    if (!path_exists(dir + "/" + name)) {
      fail(ErrorCode::damaged, "{}: file {} does not exist in the folder", index_path, shown(name));
    }
    add_file(weights, dir + "/" + name);
  }
  // Check that index and files say the same about every tensor.
  for (const auto& [tensor, file] : map) {
    const auto found = weights.tensors.find(tensor);
    if (found == weights.tensors.end() || found->second.file != dir + "/" + file) {
      fail(ErrorCode::damaged, "{}: tensor {} is not in {}", index_path, shown(tensor),
           shown(file));
    }
  }
  for (const auto& [tensor, source] : weights.tensors) {
    if (!map.contains(tensor)) {
      fail(ErrorCode::damaged, "{}: tensor {} is not in the index", source.file, shown(tensor));
    }
  }
  return weights;
}

}  // namespace

std::string shown(const std::string& name) {
  constexpr size_t kLongest = 120;
  std::string text = Json(name).dump(-1, ' ', true);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  return text;
}

std::string shown(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

WeightFiles open_weights(const std::string& dir) {
  const std::string single = dir + "/" + kWeightsFile;
  const std::string index = dir + "/" + kIndex;
  if (path_exists(single)) {
    WeightFiles weights;
    weights.where = single;
    add_file(weights, single);
    return weights;
  }
  if (path_exists(index)) return open_sharded(dir, index);
  if (path_exists(dir + "/pytorch_model.bin")) {
    fail(ErrorCode::unsupported,
         "{}/pytorch_model.bin: pickled weights run code when they are read; save the model as "
         "safetensors",
         dir);
  }
  if (path_exists(dir + "/" + kPanelFile)) refuse_panels(dir);
  fail(ErrorCode::damaged, "{}: neither {} nor {} is there", dir, kWeightsFile, kIndex);
}

}  // namespace osp
