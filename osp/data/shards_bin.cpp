#include "osp/data/shards_bin.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/data/text_reader_inputs.h"

namespace osp {
namespace {

int32_t read_int32(std::span<const std::byte> bytes, size_t index) {
  uint32_t value = 0;
  for (size_t b = 0; b < 4; ++b) {
    value |= std::to_integer<uint32_t>(bytes[4 * index + b]) << (8 * b);
  }
  return static_cast<int32_t>(value);
}

std::vector<std::string> bin_files_of(const std::string& folder) {
  std::error_code error;
  std::vector<std::string> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (entry.is_regular_file(error) && entry.path().extension() == ".bin") {
      paths.push_back(entry.path().string());
    }
  }
  if (error) fail(ErrorCode::io, "{}: cannot list the folder: {}", folder, error.message());
  std::sort(paths.begin(), paths.end());
  return paths;
}

bool name_has(const std::string& path, std::string_view word) {
  return std::filesystem::path(path).filename().string().find(word) != std::string::npos;
}

}  // namespace

uint64_t parse_bin_shard(std::span<const std::byte> bytes, const std::string& where) {
  if (bytes.size() < kBinHeaderBytes) {
    fail(ErrorCode::damaged, "{}: {} bytes, shorter than the header of {} (truncated file)", where,
         bytes.size(), kBinHeaderBytes);
  }
  const int32_t magic = read_int32(bytes, 0);
  if (magic != kBinMagic) {
    fail(ErrorCode::damaged, "{}: magic number {} in bytes 0-3; token files have {}", where, magic,
         kBinMagic);
  }
  const int32_t version = read_int32(bytes, 1);
  if (version != 1) {
    fail(ErrorCode::unsupported, "{}: version {} in bytes 4-7; this program reads version 1", where,
         version);
  }
  const int32_t count = read_int32(bytes, 2);
  const uint64_t in_file = (bytes.size() - kBinHeaderBytes) / 2;
  if (count < 0 || (bytes.size() - kBinHeaderBytes) % 2 != 0 ||
      static_cast<uint64_t>(count) != in_file) {
    fail(ErrorCode::damaged,
         "{}: the header (bytes 8-11) says {} tokens, the file of {} bytes has room for {}{}",
         where, count, bytes.size(), in_file, bytes.size() % 2 != 0 ? " and half of one" : "");
  }
  return in_file;
}

std::vector<std::string> find_bin_shards(const std::string& path, const std::string& split) {
  if (split != "train" && split != "validation") {
    fail(ErrorCode::usage, "{}: no split \"{}\"; .bin files have train and validation", path,
         split);
  }
  if (path_exists(path) && !is_directory(path)) return {path};
  std::vector<std::string> all = is_directory(path) ? bin_files_of(path) : sorted_glob(path);
  if (all.empty()) {
    fail(ErrorCode::usage,
         "{}: no token shards there (expected a folder with index.json made by `osp tokenize`, or "
         ".bin files)",
         path);
  }
  const std::string_view wanted = split == "train" ? "train" : "val";
  const bool named = std::any_of(all.begin(), all.end(), [](const std::string& file) {
    return name_has(file, "train") || name_has(file, "val");
  });
  if (named) std::erase_if(all, [&](const std::string& file) { return !name_has(file, wanted); });
  if (all.empty()) {
    fail(ErrorCode::usage, "{}: none of the .bin files has \"{}\" in its name for split {}", path,
         wanted, split);
  }
  return all;
}

}  // namespace osp
