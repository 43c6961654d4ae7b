#include "osp/runtime/head.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "osp/base/error.h"
#include "osp/runtime/packed_linear.h"

namespace osp {
namespace {

using kernels::kLineBytes;
using kernels::kPanelOutputs;

constexpr int64_t kStatesAtOnce = 4;  // two rows of digits each

// Bytes of one panel of `columns`.
int64_t panel_bytes(int64_t columns, int64_t bits) {
  return columns / (bits == 8 ? 4 : 8) * kLineBytes;
}

void pack_byte_panel(const int8_t* codes, int64_t columns, uint8_t* panel) {
  for (int64_t i = 0; i < columns / 4; ++i) {
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
      for (int64_t j = 0; j < 4; ++j) {
        panel[i * kLineBytes + 4 * o + j] =
            static_cast<uint8_t>(codes[o * columns + 4 * i + j] + 128);
      }
    }
  }
}

}  // namespace

Head::Head(std::span<const uint16_t> table, int64_t vocabulary, int64_t width, int64_t bits,
           const kernels::EngineKernels& kernels, const kernels::CodeProducts& products)
    : table_(table),
      vocabulary_(vocabulary),
      width_(width),
      bits_(bits),
      kernels_(kernels),
      products_(products) {
  OSP_CHECK(bits == 16 || bits == 8 || bits == 4, "a head of {} bits", bits);
  OSP_CHECK(static_cast<int64_t>(table.size()) == vocabulary * width, "a table of {} numbers",
            table.size());
  if (bits < 16) pack();
}

void Head::pack() {
  const int64_t panels = (vocabulary_ + kPanelOutputs - 1) / kPanelOutputs;
  panels_ = AlignedMemory(static_cast<size_t>(panels * panel_bytes(width_, bits_)));
  scale_.assign(static_cast<size_t>(panels * kPanelOutputs), 0.0f);
  code_sum_.assign(scale_.size(), 0.0f);
  const float top = bits_ == 8 ? 127.0f : 7.0f;
  std::vector<int8_t> codes(static_cast<size_t>(kPanelOutputs * width_));
  std::vector<float> row(static_cast<size_t>(width_));
  for (int64_t panel = 0; panel < panels; ++panel) {
    std::fill(codes.begin(), codes.end(), int8_t{0});
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
      const int64_t v = panel * kPanelOutputs + o;
      if (v >= vocabulary_) break;
      kernels_.from_half(table_.data() + v * width_, row.data(), width_);
      float largest = 0.0f;
      for (const float w : row) largest = std::max(largest, std::abs(w));
      const float scale = std::max(largest / top, 1.0e-30f);
      float sum = 0.0f;
      for (int64_t i = 0; i < width_; ++i) {
        const float code = std::nearbyint(row[static_cast<size_t>(i)] / scale);
        codes[static_cast<size_t>(o * width_ + i)] = static_cast<int8_t>(code);
        sum += std::abs(code);
      }
      scale_[static_cast<size_t>(v)] = scale;
      code_sum_[static_cast<size_t>(v)] = sum;
    }
    uint8_t* to = panels_.data() + panel * panel_bytes(width_, bits_);
    bits_ == 8 ? pack_byte_panel(codes.data(), width_, to) : pack_panel(codes.data(), width_, to);
  }
}

void Head::logits(std::span<const float> states, int64_t rows, std::span<float> out,
                  WorkerPool& pool) {
  OSP_CHECK(static_cast<int64_t>(states.size()) == rows * width_ &&
                static_cast<int64_t>(out.size()) == rows * vocabulary_,
            "{} states and {} logits for {} rows", states.size(), out.size(), rows);
  bits_ == 16 ? full_logits(states.data(), rows, out.data(), pool)
              : code_logits(states.data(), rows, out.data(), pool);
}

void Head::full_logits(const float* states, int64_t rows, float* out, WorkerPool& pool) const {
  pool.split(vocabulary_, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      for (int64_t r = 0; r < rows; ++r) {
        out[r * vocabulary_ + v] =
            kernels_.dot_half(states + r * width_, table_.data() + v * width_, width_);
      }
    }
  });
}

void Head::code_logits(const float* states, int64_t rows, float* out, WorkerPool& pool) const {
  const int64_t panels = static_cast<int64_t>(scale_.size()) / kPanelOutputs;
  const int64_t bytes = panel_bytes(width_, bits_), lines = bytes / kLineBytes;
  const int32_t offset = bits_ == 8 ? 128 : 8;
  for (int64_t first = 0; first < rows; first += kStatesAtOnce) {
    // Digits of some states.
    const int64_t now = std::min(kStatesAtOnce, rows - first);
    const int tile = now == 1 ? 1 : now == 2 ? 2 : 3;
    const int64_t R = kernels::kTileRows[tile];
    std::vector<int8_t> digits(static_cast<size_t>(width_ * R));
    float state_scale[kStatesAtOnce];
    int32_t sums[kStatesAtOnce][2];
    for (int64_t s = 0; s < now; ++s) {
      state_scale[s] = kernels_.digits(states + (first + s) * width_, width_, digits.data() + 8 * s,
                                       digits.data() + 8 * s + 4, 4 * R, sums[s]);
    }
    const kernels::CodeTile product =
        bits_ == 8 ? products_.bytes[tile][0] : products_.nibbles[tile][0];
    pool.split(panels, [&](int64_t begin, int64_t end) {
      int32_t out_sums[8 * kPanelOutputs];
      float values[kPanelOutputs];
      for (int64_t p = begin; p < end; ++p) {
        product(digits.data(), panels_.data() + p * bytes, bytes, lines, 128, out_sums);
        for (int64_t s = 0; s < now; ++s) {
          kernels_.head_panel(out_sums + 2 * s * kPanelOutputs,
                              out_sums + (2 * s + 1) * kPanelOutputs, sums[s], offset,
                              scale_.data() + p * kPanelOutputs, state_scale[s], values);
          const int64_t count = std::min(kPanelOutputs, vocabulary_ - p * kPanelOutputs);
          std::copy(values, values + count, out + (first + s) * vocabulary_ + p * kPanelOutputs);
        }
      }
    });
  }
}

int32_t Head::greedy(std::span<const float> state, std::span<const float> logits, int64_t count,
                     int64_t* candidates) const {
  if (candidates != nullptr) *candidates = 0;
  const auto first_largest = [&] {
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.begin() + count) -
                                logits.begin());
  };
  if (bits_ == 16) return first_largest();
  // Bounds in fp64, widened for the rounding of fp32 sums of `width` products.
  double size = 0.0, largest = 0.0;
  for (const float h : state) {
    size += std::abs(static_cast<double>(h));
    largest = std::max(largest, std::abs(static_cast<double>(h)));
  }
  const double state_step = largest / 16255.0;
  const double rounding = 0x1p-24 * (static_cast<double>(width_) / 16.0 + 16.0);
  const auto error = [&](int64_t v) {
    const double scale = scale_[static_cast<size_t>(v)];
    const double weights = scale * code_sum_[static_cast<size_t>(v)];
    return 0.5 * scale * size * 1.001 + 0.5 * state_step * weights * 1.001 +
           rounding * largest * (weights + 0.5 * scale * static_cast<double>(width_)) +
           0x1p-21 * std::abs(static_cast<double>(logits[static_cast<size_t>(v)]));
  };
  double best = -std::numeric_limits<double>::infinity();
  for (int64_t v = 0; v < count; ++v) {
    best = std::max(best, static_cast<double>(logits[static_cast<size_t>(v)]) - error(v));
  }
  int32_t winner = -1;
  float winning = 0.0f;
  for (int64_t v = 0; v < count; ++v) {
    if (!(static_cast<double>(logits[static_cast<size_t>(v)]) + error(v) >= best)) continue;
    if (candidates != nullptr) ++*candidates;
    const float z = kernels_.dot_half(state.data(), table_.data() + v * width_, width_);
    if (winner < 0 || z > winning) {
      winner = static_cast<int32_t>(v);
      winning = z;
    }
  }
  return winner < 0 ? first_largest() : winner;
}

}  // namespace osp
