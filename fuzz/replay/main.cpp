// Stands in for libFuzzer in ordinary builds: runs every file of the corpus folders given as
// arguments through the fuzz target once and prints their number. A missing or empty folder is an
// error, so that a lost corpus cannot pass as a test.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

std::vector<std::string> files_of(const std::string& folder) {
  if (!osp::is_directory(folder)) {
    osp::fail(osp::ErrorCode::usage, "{}: no such corpus folder", folder);
  }
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(entry.path().string());
  }
  if (files.empty()) osp::fail(osp::ErrorCode::usage, "{}: the corpus is empty", folder);
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: {} corpus-folder...\n", argv[0]);
    return 2;
  }
  std::string current = argv[0];
  try {
    for (int i = 1; i < argc; ++i) {
      const std::vector<std::string> files = files_of(argv[i]);
      for (const std::string& file : files) {
        current = file;
        const std::string bytes = osp::read_file(file);
        LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
      }
      fmt::print("{}: {} files replayed\n", argv[i], files.size());
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", current, error.what());
    return 1;
  }
  return 0;
}
