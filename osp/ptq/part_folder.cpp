#include "osp/ptq/part_folder.h"

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"

namespace osp {
namespace {

constexpr size_t kMaxInfoBytes = size_t{64} << 20;

std::string name_of(int64_t part) {
  if (part == kNoLayer) return "outside";
  return part == kLearnedPart ? "learned" : fmt::format("block-{}", part);
}

}  // namespace

PartFolder::PartFolder(const std::string& path, const Json& fingerprint, bool resume)
    : path_(path) {
  const std::string settings = path + "/settings.json";
  if (resume && path_exists(settings)) {
    if (read_json_file(settings, kMaxInfoBytes) != as_written(fingerprint)) {
      fail(ErrorCode::usage,
           "{}: begun with other settings than asked for now; give the same ones, or leave out "
           "--resume to begin anew",
           path);
    }
    return;
  }
  if (resume) {
    fail(ErrorCode::usage,
         "{}: there is nothing to resume; check --out, or leave out --resume to begin", path);
  }
  remove_tree(path);
  make_directories(path);
  write_file_atomic(settings, json_text(fingerprint, 2) + "\n");
}

std::string PartFolder::tensors_path(int64_t part) const {
  return fmt::format("{}/{}.safetensors", path_, name_of(part));
}

std::string PartFolder::info_path(int64_t part) const {
  return fmt::format("{}/{}.json", path_, name_of(part));
}

bool PartFolder::has(int64_t part) const { return path_exists(info_path(part)); }

void PartFolder::save(int64_t part, const TensorBuffers& tensors, const Json& info) const {
  write_file_atomic(tensors_path(part), [&](const std::string& temporary) {
    write_safetensors(temporary, tensors.entries);
  });
  write_file_atomic(info_path(part), json_text(info, 2) + "\n");
}

Json PartFolder::info(int64_t part) const { return read_json_file(info_path(part), kMaxInfoBytes); }

SafetensorsFile PartFolder::tensors(int64_t part) const {
  return SafetensorsFile::open(tensors_path(part));
}

}  // namespace osp
