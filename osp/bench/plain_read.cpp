#include "osp/bench/plain_read.h"

#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "osp/base/timing.h"
#include "osp/ops/isa.h"

namespace osp {
namespace {

constexpr size_t kReadBytes = size_t{400} << 20;
constexpr size_t kAhead = 4096;

__attribute__((target("avx512f"))) void read_by_512(const uint8_t* data, size_t bytes) {
  __m512i sum[4] = {};
  for (size_t i = 0; i < bytes; i += 256) {
    for (size_t j = 0; j < 4; ++j) {
      __builtin_prefetch(data + i + 64 * j + kAhead);
      sum[j] = _mm512_xor_si512(sum[j], _mm512_loadu_si512(data + i + 64 * j));
    }
  }
  for (const __m512i& part : sum) __asm__ volatile("" : : "v"(part));
}

void read_by_128(const uint8_t* data, size_t bytes) {
  __m128i sum[4] = {};
  for (size_t i = 0; i < bytes; i += 64) {
    __builtin_prefetch(data + i + kAhead);
    for (size_t j = 0; j < 4; ++j) {
      const auto* at = reinterpret_cast<const __m128i*>(data + i + 16 * j);
      sum[j] = _mm_xor_si128(sum[j], _mm_loadu_si128(at));
    }
  }
  for (const __m128i& part : sum) __asm__ volatile("" : : "x"(part));
}

}  // namespace

AlignedMemory memory_to_read() {
  AlignedMemory memory(kReadBytes);
  std::memset(memory.data(), 1, kReadBytes);
  return memory;
}

void plain_read(const AlignedMemory& memory) {
  if (detect_isa() >= Isa::avx512) return read_by_512(memory.data(), memory.bytes());
  read_by_128(memory.data(), memory.bytes());
}

double plain_read_rate() {
  const AlignedMemory memory = memory_to_read();
  double best = 0.0;
  for (int i = 0; i < 3; ++i) {
    const double start = process_cpu_seconds();
    plain_read(memory);
    best = std::max(best, static_cast<double>(kReadBytes) / (process_cpu_seconds() - start));
  }
  return best;
}

}  // namespace osp
