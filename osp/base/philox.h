// Counter-based random numbers: Philox 4x32-10 (Salmon et al. 2011). Every number is a pure
// function of (seed, stream, counter), so nothing has a generator state to save and threads cannot
// reorder it.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace osp {

// 128 random bits for a counter (two 64-bit words) under a 64-bit key.
std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high);

// A named stream of random numbers: key = seed, high counter word = hash of (name, step).
class RandomStream {
 public:
  RandomStream(uint64_t seed, std::string_view name, uint64_t step = 0);

  uint32_t bits32(uint64_t index) const;
  uint64_t bits64(uint64_t index) const;
  // Uniform in [0, 1) with 53 bits.
  double uniform(uint64_t index) const;
  // Uniform in [0, bound), bound > 0, without modulo bias beyond 2^-64.
  uint64_t below(uint64_t index, uint64_t bound) const;
  // Standard normal by Box–Muller in double; two per counter.
  void fill_normal(std::span<float> out, double mean, double standard_deviation) const;

 private:
  uint64_t key_;
  uint64_t stream_;
};

// Bijection of [0, size): the place of `index` in a shuffle keyed by (seed, name, round).
// Four-round Feistel network with cycle walking; O(1) memory, so an epoch's order needs no table.
uint64_t shuffled_index(uint64_t index, uint64_t size, uint64_t seed, std::string_view name,
                        uint64_t round);

}  // namespace osp
