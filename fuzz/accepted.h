// Counts the inputs that a parser accepted, and keeps some of them, from which mutators set out. A
// target whose count stays near zero tests the first checks alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

namespace osp::fuzz {

struct AcceptedInputs {
  static constexpr size_t kMostKept = 64;
  uint64_t count = 0;
  std::vector<std::string> kept;
#ifdef OSP_LIBFUZZER
  ~AcceptedInputs() {  // a line beside libFuzzer's own
    std::fprintf(stderr, "stat::accepted_units: %llu\n", static_cast<unsigned long long>(count));
  }
#endif
};
inline AcceptedInputs accepted_inputs;

// Called once for an input that was accepted.
inline void accepted(const uint8_t* data, size_t size) {
  auto& [count, kept] = accepted_inputs;
  std::string input(reinterpret_cast<const char*>(data), size);
  if (kept.size() < AcceptedInputs::kMostKept) {
    kept.push_back(std::move(input));
  } else if (count % 16 == 0) {
    kept[count / 16 % kept.size()] = std::move(input);
  }
  ++count;
}

}  // namespace osp::fuzz
