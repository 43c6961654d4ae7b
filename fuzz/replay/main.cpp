// Stands in for libFuzzer in ordinary builds: runs every file of the corpus folders given as
// arguments through the fuzz target once and prints their number. A missing or empty folder is an
// error, so that a lost corpus cannot pass as a test. Of a target with a mutator, some mutations of
// every file run as well, the same ones each time, and a share of them must be accepted: a mutator
// that breaks all inputs is an error, too.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "fuzz/accepted.h"
#include "osp/base/error.h"
#include "osp/base/file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);
// Of targets that have one (fuzz/mutator.h).
extern "C" __attribute__((weak)) size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size,
                                                                size_t max_size, unsigned seed);
// In the place of libFuzzer's: some byte is another one.
extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size) {
  if (size == 0) return std::min<size_t>(max_size, 1);
  data[size / 2] = static_cast<uint8_t>(data[size / 2] + 1);
  return size;
}

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

constexpr unsigned kMutations = 100;      // of a file, at most
constexpr std::chrono::seconds kTime(5);  // for the mutations of all files
// The share of mutations that must be accepted, where enough of them ran. Without a mutator it was
// below 1 % of most formats.
constexpr double kLeastAcceptedShare = 0.01;
constexpr unsigned kEnoughMutations = 300;

void run(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

std::string mutated(std::string bytes, unsigned seed) {
  const size_t size = bytes.size();
  bytes.resize(size + 4096);
  auto* const data = reinterpret_cast<uint8_t*>(bytes.data());
  bytes.resize(LLVMFuzzerCustomMutator(data, size, bytes.size(), seed));
  return bytes;
}

// The first mutation of every file, then the second, …; `current` names the one that runs.
void run_mutations(const std::vector<std::string>& files, std::string& current) {
  const auto start = std::chrono::steady_clock::now();
  osp::fuzz::accepted_inputs.count = 0;
  unsigned count = 0;
  for (unsigned round = 0; round < kMutations; ++round) {
    for (const std::string& file : files) {
      if (std::chrono::steady_clock::now() - start > kTime) break;
      current = fmt::format("{}, mutation {}", file, round);
      run(mutated(osp::read_file(file), count * 2654435761u));  // seeds far from each other
      ++count;
    }
  }
  current = "all files";
  const double share =
      static_cast<double>(osp::fuzz::accepted_inputs.count) / static_cast<double>(count);
  fmt::print("{} mutations, {:.0f} % of them accepted\n", count, 100 * share);
  OSP_CHECK(count < kEnoughMutations || share >= kLeastAcceptedShare,
            "the mutator breaks too many inputs");
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
        run(osp::read_file(file));
      }
      fmt::print("{}: {} files replayed\n", argv[i], files.size());
      if (LLVMFuzzerCustomMutator != nullptr) run_mutations(files, current);
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: {}\n", current, error.what());
    return 1;
  }
  return 0;
}
