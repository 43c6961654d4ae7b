#include "osp/ptq/python_random.h"

#include <array>
#include <bit>
#include <span>
#include <sstream>
#include <vector>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr size_t kWords = 624;

// init_by_array of the generator's authors.
std::array<uint32_t, kWords> state_from(std::span<const uint32_t> key) {
  std::array<uint32_t, kWords> state;
  state[0] = 19650218u;
  for (uint32_t i = 1; i < kWords; ++i) {
    state[i] = 1812433253u * (state[i - 1] ^ (state[i - 1] >> 30)) + i;
  }
  size_t i = 1, j = 0;
  const auto advance = [&] {
    if (++i < kWords) return;
    state[0] = state[kWords - 1];
    i = 1;
  };
  for (size_t k = std::max(kWords, key.size()); k > 0; --k) {
    state[i] = (state[i] ^ ((state[i - 1] ^ (state[i - 1] >> 30)) * 1664525u)) + key[j] +
               static_cast<uint32_t>(j);
    advance();
    j = (j + 1) % key.size();
  }
  for (size_t k = kWords - 1; k > 0; --k) {
    state[i] = (state[i] ^ ((state[i - 1] ^ (state[i - 1] >> 30)) * 1566083941u)) -
               static_cast<uint32_t>(i);
    advance();
  }
  state[0] = 0x80000000u;
  return state;
}

}  // namespace

PythonRandom::PythonRandom(uint64_t seed) {
  std::vector<uint32_t> key{static_cast<uint32_t>(seed)};
  if (seed >> 32 != 0) key.push_back(static_cast<uint32_t>(seed >> 32));
  // The standard's textual form of the state: its words, then the position.
  std::stringstream text;
  for (const uint32_t word : state_from(key)) text << word << ' ';
  text << kWords;
  text >> generator_;
  OSP_CHECK(!text.fail(), "the generator does not take its state");
}

int64_t PythonRandom::randint(int64_t low, int64_t high) {
  OSP_CHECK(high >= low && high - low < (int64_t{1} << 32) - 1, "a range [{}, {}]", low, high);
  const uint64_t bound = static_cast<uint64_t>(high - low) + 1;
  const int bits = std::bit_width(bound);
  while (true) {
    const uint64_t drawn = generator_() >> (32 - bits);
    if (drawn < bound) return low + static_cast<int64_t>(drawn);
  }
}

}  // namespace osp
