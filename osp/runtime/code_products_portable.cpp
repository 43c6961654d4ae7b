// The tiles of code_products.h in plain loops, which say what the others must give.
#include "osp/runtime/code_products.h"

namespace osp::kernels {
namespace {

template <int R, int P>
void nibble_tile(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines, int,
                 int32_t* out) {
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      int32_t sum[kPanelOutputs] = {};
      for (int64_t i = 0; i < lines; ++i) {
        const uint8_t* line = panels + p * stride + i * kLineBytes;
        const int8_t* low = a + i * 8 * R + 4 * r;
        const int8_t* high = low + 4 * R;
        for (int o = 0; o < kPanelOutputs; ++o) {
          for (int j = 0; j < 4; ++j) {
            sum[o] += (line[4 * o + j] & 15) * low[j] + (line[4 * o + j] >> 4) * high[j];
          }
        }
      }
      for (int o = 0; o < kPanelOutputs; ++o) out[(r * P + p) * kPanelOutputs + o] = sum[o];
    }
  }
}

template <int R, int P>
void byte_tile(const int8_t* a, const uint8_t* panels, int64_t stride, int64_t lines, int,
               int32_t* out) {
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      int32_t sum[kPanelOutputs] = {};
      for (int64_t i = 0; i < lines; ++i) {
        const uint8_t* line = panels + p * stride + i * kLineBytes;
        const int8_t* part = a + i * 4 * R + 4 * r;
        for (int o = 0; o < kPanelOutputs; ++o) {
          for (int j = 0; j < 4; ++j) sum[o] += line[4 * o + j] * part[j];
        }
      }
      for (int o = 0; o < kPanelOutputs; ++o) out[(r * P + p) * kPanelOutputs + o] = sum[o];
    }
  }
}

int64_t register_products(int64_t steps) {
  int32_t sum[kPanelOutputs] = {};
  const auto a = static_cast<int8_t>(steps & 1);
  for (int64_t i = 0; i < steps; ++i) {
    for (int32_t& s : sum) s += a * static_cast<uint8_t>(i);
  }
  __asm__ volatile("" : : "r"(sum) : "memory");
  return steps * kPanelOutputs;
}

constexpr CodeProducts kPortable = {"portable", OSP_CODE_TILES(nibble_tile),
                                    OSP_CODE_TILES(byte_tile), register_products};

}  // namespace

const CodeProducts& code_products_portable() { return kPortable; }

}  // namespace osp::kernels
