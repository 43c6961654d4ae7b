#include "osp/base/philox.h"

#include <bit>
#include <cmath>
#include <numbers>

#include "osp/base/error.h"

namespace osp {
namespace {

// FNV-1a, then a finalizer (splitmix64), so that near names give far streams.
uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

uint64_t name_hash(std::string_view name) {
  uint64_t hash = 0xCBF29CE484222325ull;
  for (const unsigned char c : name) hash = (hash ^ c) * 0x100000001B3ull;
  return mix(hash);
}

}  // namespace

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  uint32_t c0 = static_cast<uint32_t>(counter_low), c1 = static_cast<uint32_t>(counter_low >> 32);
  uint32_t c2 = static_cast<uint32_t>(counter_high), c3 = static_cast<uint32_t>(counter_high >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c0;
    const uint64_t p1 = 0xCD9E8D57ull * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

RandomStream::RandomStream(uint64_t seed, std::string_view name, uint64_t step)
    : key_(seed), stream_(name_hash(name) ^ mix(step)) {}

uint32_t RandomStream::bits32(uint64_t index) const { return philox(key_, index, stream_)[0]; }

uint64_t RandomStream::bits64(uint64_t index) const {
  const auto r = philox(key_, index, stream_);
  return static_cast<uint64_t>(r[1]) << 32 | r[0];
}

double RandomStream::uniform(uint64_t index) const {
  return static_cast<double>(bits64(index) >> 11) * 0x1.0p-53;
}

uint64_t RandomStream::below(uint64_t index, uint64_t bound) const {
  OSP_CHECK(bound > 0, "empty range");
  return static_cast<uint64_t>((static_cast<unsigned __int128>(bits64(index)) * bound) >> 64);
}

void RandomStream::fill_normal(std::span<float> out, double mean, double standard_deviation) const {
  for (size_t i = 0; i < out.size(); i += 2) {
    const auto r = philox(key_, i / 2, stream_);
    const uint64_t a = static_cast<uint64_t>(r[1]) << 32 | r[0];
    const uint64_t b = static_cast<uint64_t>(r[3]) << 32 | r[2];
    const double u = (static_cast<double>(a >> 11) + 1.0) * 0x1.0p-53;  // (0, 1]
    const double angle = static_cast<double>(b >> 11) * 0x1.0p-53 * 2.0 * std::numbers::pi;
    const double radius = standard_deviation * std::sqrt(-2.0 * std::log(u));
    out[i] = static_cast<float>(mean + radius * std::cos(angle));
    if (i + 1 < out.size()) out[i + 1] = static_cast<float>(mean + radius * std::sin(angle));
  }
}

uint64_t shuffled_index(uint64_t index, uint64_t size, uint64_t seed, std::string_view name,
                        uint64_t round) {
  OSP_CHECK(index < size, "index {} of {}", index, size);
  if (size == 1) return 0;
  const int half_bits = (std::bit_width(size - 1) + 1) / 2;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  const RandomStream stream(seed, name, round);
  uint64_t x = index;
  do {
    uint64_t left = x >> half_bits, right = x & mask;
    for (uint64_t r = 0; r < 4; ++r) {
      const uint64_t next = left ^ (stream.bits64(right << 2 | r) & mask);
      left = right;
      right = next;
    }
    x = left << half_bits | right;
  } while (x >= size);
  return x;
}

}  // namespace osp
