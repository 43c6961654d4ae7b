#include "osp/formats/gguf_split.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/printable.h"

namespace osp {
namespace {

constexpr std::string_view kNumberKey = "split.no";
constexpr std::string_view kCountKey = "split.count";
constexpr std::string_view kTensorsKey = "split.tensors.count";
constexpr int64_t kMostParts = 65535;
constexpr std::string_view kEnding = ".gguf";

// "-00002-of-00003.gguf"
std::string part_ending(int64_t number, int64_t count) {
  return fmt::format("-{:05}-of-{:05}{}", number, count, kEnding);
}

// How many tensors each part has.
std::vector<size_t> part_sizes(const std::vector<GgufTensorEntry>& tensors, uint64_t split_bytes) {
  std::vector<size_t> sizes(1, 0);
  uint64_t bytes = 0;
  for (const GgufTensorEntry& tensor : tensors) {
    const uint64_t own = gguf_tensor_bytes(tensor);
    if (split_bytes > 0 && sizes.back() > 0 && bytes + own > split_bytes) {
      sizes.push_back(0);
      bytes = 0;
    }
    ++sizes.back();
    bytes += own;
  }
  return sizes;
}

}  // namespace

int64_t gguf_split_count(const GgufMetadata& metadata) {
  if (!metadata.has(kCountKey)) return 1;
  const int64_t count = metadata.integer(kCountKey);
  // Files of one part may say 0 or 1.
  if (count < 0 || count > kMostParts) {
    fail(ErrorCode::damaged, "{}: {} is {}, expected 1 to {}", metadata.where(), kCountKey, count,
         kMostParts);
  }
  return std::max<int64_t>(count, 1);
}

std::string gguf_part_path(const std::string& path, int64_t number, int64_t count) {
  const bool named = path.ends_with(kEnding);
  return path.substr(0, path.size() - (named ? kEnding.size() : 0)) + part_ending(number, count);
}

std::string gguf_model_name(std::string file_name) {
  if (!file_name.ends_with(kEnding)) return file_name;
  // The ending of a part, with any digits for those of its numbers.
  const std::string part = part_ending(0, 0);
  const size_t begin = file_name.size() - std::min(part.size(), file_name.size());
  const bool is_part =
      std::equal(file_name.begin() + static_cast<long>(begin), file_name.end(), part.begin(),
                 part.end(), [](char found, char form) {
                   return form == '0' ? found >= '0' && found <= '9' : found == form;
                 });
  file_name.resize(is_part ? begin : file_name.size() - kEnding.size());
  return file_name;
}

std::vector<std::string> gguf_part_paths(const std::string& path, int64_t count) {
  const size_t length = part_ending(1, count).size();
  const std::string stem = path.substr(0, path.size() - std::min(length, path.size()));
  std::vector<std::string> paths;
  for (int64_t number = 1; number <= count; ++number) {
    paths.push_back(stem + part_ending(number, count));
  }
  if (std::ranges::find(paths, path) == paths.end()) {
    fail(
        ErrorCode::damaged,
        "{}: {} is {}, but the name does not end in -NNNNN{}: rename the parts, which are found by "
        "their names",
        path, kCountKey, count, part_ending(1, count).substr(6));
  }
  return paths;
}

GgufContents join_gguf_parts(std::vector<GgufContents> parts) {
  OSP_CHECK(!parts.empty(), "no parts");
  const auto count = static_cast<int64_t>(parts.size());
  const int64_t total = parts[0].metadata.integer(kTensorsKey);
  for (int64_t i = 0; i < count; ++i) {
    const GgufMetadata& metadata = parts[static_cast<size_t>(i)].metadata;
    for (const auto& [key, expected] :
         {std::pair(kNumberKey, i), std::pair(kCountKey, count), std::pair(kTensorsKey, total)}) {
      if (const int64_t found = metadata.integer(key); found != expected) {
        fail(ErrorCode::damaged, "{}: {} is {}, expected {}: it is a part of another model",
             metadata.where(), key, found, expected);
      }
    }
  }
  GgufContents joined = std::move(parts[0]);
  for (size_t i = 1; i < parts.size(); ++i) {
    for (auto& [name, tensor] : parts[i].tensors) {
      if (!joined.tensors.emplace(name, std::move(tensor)).second) {
        fail(ErrorCode::damaged, "{}: tensor \"{}\" is in an earlier part, too",
             parts[i].metadata.where(), printable(name));
      }
    }
  }
  if (static_cast<int64_t>(joined.tensors.size()) != total) {
    fail(ErrorCode::damaged, "{}: {} is {}, but the parts have {} tensors", joined.metadata.where(),
         kTensorsKey, total, joined.tensors.size());
  }
  return joined;
}

std::vector<std::string> write_gguf_parts(const std::string& path,
                                          const GgufMetadataWriter& metadata,
                                          const std::vector<GgufTensorEntry>& tensors,
                                          uint64_t split_bytes) {
  const std::vector<size_t> sizes = part_sizes(tensors, split_bytes);
  // One file has its own name and no keys of parts.
  if (sizes.size() == 1) {
    write_file_atomic(
        path, [&](const std::string& temporary) { write_gguf(temporary, metadata, tensors); });
    return {path};
  }
  // Name the parts, and refuse to replace any.
  const auto count = static_cast<int64_t>(sizes.size());
  if (count > kMostParts) {
    fail(ErrorCode::usage, "--split-size: {} files, and the format numbers at most {}", count,
         kMostParts);
  }
  std::vector<std::string> paths;
  for (int64_t number = 1; number <= count; ++number) {
    paths.push_back(gguf_part_path(path, number, count));
    if (path_exists(paths.back())) {
      fail(ErrorCode::usage, "--out {}: the part {} exists already", path, paths.back());
    }
  }
  // Write them from the last to the first; after an error remove those that exist.
  std::vector<std::string> written;
  try {
    size_t end = tensors.size();
    for (size_t i = sizes.size(); i-- > 0;) {  // the first last: with it the model is whole
      GgufMetadataWriter own = i == 0 ? metadata : GgufMetadataWriter();
      own.u16(kNumberKey, static_cast<uint16_t>(i));
      own.u16(kCountKey, static_cast<uint16_t>(count));
      own.i32(kTensorsKey, static_cast<int32_t>(tensors.size()));
      const std::vector<GgufTensorEntry> part(
          tensors.begin() + static_cast<std::ptrdiff_t>(end - sizes[i]),
          tensors.begin() + static_cast<std::ptrdiff_t>(end));
      end -= sizes[i];
      write_file_atomic(paths[i],
                        [&](const std::string& temporary) { write_gguf(temporary, own, part); });
      written.push_back(paths[i]);
    }
  } catch (...) {
    for (const std::string& part : written) std::filesystem::remove(part);
    throw;
  }
  return paths;
}

}  // namespace osp
