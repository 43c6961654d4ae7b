#include "osp/runtime/head.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/runtime/code_buffer.h"
#include "osp/runtime/packed_linear.h"

namespace osp {
namespace {

using kernels::kBoundLogits;
using kernels::kLineBytes;
using kernels::kPanelOutputs;
using kernels::kWidePanels;
using kernels::kWideRows;

constexpr int64_t kStatesAtOnce = 4;  // two rows of digits each

}  // namespace

int64_t HeadPanels::panel_bytes(int64_t width, int64_t bits) {
  return width / kernels::line_columns(bits) * kLineBytes;
}

HeadPanels pack_head(std::span<const uint16_t> table, int64_t vocabulary, int64_t width,
                     int64_t bits, const kernels::EngineKernels& kernels) {
  OSP_CHECK(bits == 8 || bits == 4, "panels of {} bits", bits);
  const int64_t panels = (vocabulary + kPanelOutputs - 1) / kPanelOutputs;
  const int64_t bytes = HeadPanels::panel_bytes(width, bits);
  AlignedMemory memory(static_cast<size_t>(panels * bytes));
  std::vector<float> scales(static_cast<size_t>(panels * kPanelOutputs), 0.0f);
  std::vector<float> weight_sums(scales.size(), 0.0f);
  const float top = bits == 8 ? 127.0f : 7.0f;
  std::vector<int8_t> codes(static_cast<size_t>(kPanelOutputs * width));
  std::vector<float> row(static_cast<size_t>(width));
  for (int64_t panel = 0; panel < panels; ++panel) {
    leave_files_if_stopped("codes were packed");
    std::fill(codes.begin(), codes.end(), int8_t{0});
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
      const int64_t v = panel * kPanelOutputs + o;
      if (v >= vocabulary) break;
      kernels.from_half(table.data() + v * width, row.data(), width);
      float largest = 0.0f;
      for (const float w : row) largest = std::max(largest, std::abs(w));
      const float scale = std::max(largest / top, 1.0e-30f);
      float sum = 0.0f;
      for (int64_t i = 0; i < width; ++i) {
        const float code = std::nearbyint(row[static_cast<size_t>(i)] / scale);
        codes[static_cast<size_t>(o * width + i)] = static_cast<int8_t>(code);
        sum += std::abs(code);
      }
      scales[static_cast<size_t>(v)] = scale;
      weight_sums[static_cast<size_t>(v)] = scale * sum;
    }
    uint8_t* to = memory.data() + panel * bytes;
    bits == 8 ? pack_byte_panel(codes.data(), width, to) : pack_panel(codes.data(), width, to);
  }
  return {bits, std::move(memory), std::move(scales), std::move(weight_sums)};
}

Head::Head(std::span<const uint16_t> table, int64_t vocabulary, int64_t width, int64_t bits,
           const kernels::EngineKernels& kernels, const kernels::CodeProducts& products,
           const HeadPanels& packed)
    : table_(table),
      vocabulary_(vocabulary),
      width_(width),
      bits_(bits),
      kernels_(kernels),
      products_(products) {
  OSP_CHECK(bits == 16 || bits == 8 || bits == 4, "a head of {} bits", bits);
  OSP_CHECK(static_cast<int64_t>(table.size()) == vocabulary * width, "a table of {} numbers",
            table.size());
  if (bits < 16) {
    packed_ = packed.bits == bits ? packed : pack_head(table, vocabulary, width, bits, kernels);
  }
}

void Head::logits(std::span<const float> states, int64_t rows, std::span<float> out,
                  WorkerPool& pool) {
  OSP_CHECK(static_cast<int64_t>(states.size()) == rows * width_ &&
                static_cast<int64_t>(out.size()) == rows * vocabulary_,
            "{} states and {} logits for {} rows", states.size(), out.size(), rows);
  if (bits_ == 16) {
    full_logits(states.data(), rows, out.data(), pool);
  } else if (products_.wide != nullptr && 2 * rows >= kWideRows) {
    wide_logits(states.data(), rows, out.data(), pool);
  } else {
    code_logits(states.data(), rows, out.data(), pool);
  }
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
  // Digits of all states, in tiles of up to kStatesAtOnce.
  struct Tile {
    int64_t first, states;
    int size;
    std::vector<int8_t> digits;
    float scale[kStatesAtOnce];
    int32_t sums[2 * kStatesAtOnce];
  };
  std::vector<Tile> tiles;
  for (int64_t first = 0; first < rows; first += kStatesAtOnce) {
    const int64_t now = std::min(kStatesAtOnce, rows - first);
    Tile tile{first, now, now == 1 ? 1 : now == 2 ? 2 : 3, {}, {}, {}};
    const int64_t R = kernels::kTileRows[tile.size];
    tile.digits.resize(static_cast<size_t>(width_ * R));
    for (int64_t s = 0; s < now; ++s) {
      int8_t* to = tile.digits.data() + 8 * s;
      tile.scale[s] =
          kernels_.digits(states + (first + s) * width_, width_, to, 4 * R, tile.sums + 2 * s);
    }
    tiles.push_back(std::move(tile));
  }
  // Panels, one or three together, each for all states.
  const int64_t panels = static_cast<int64_t>(packed_.scale.size()) / kPanelOutputs;
  const int64_t together = rows == 1 ? 1 : kernels::kTilePanels;
  const int64_t bundles = (panels + together - 1) / together;
  const int64_t bytes = HeadPanels::panel_bytes(width_, bits_);
  pool.split(bundles, [&](int64_t begin, int64_t end) {
    int32_t products[8 * kernels::kTilePanels * kPanelOutputs];
    for (int64_t bundle = begin; bundle < end; ++bundle) {
      const int64_t first = bundle * together, now = std::min(together, panels - first);
      for (const Tile& tile : tiles) {
        const kernels::CodeTile run = products_.tiles(bits_)[tile.size][now - 1];
        run(tile.digits.data(), packed_.panels.data() + first * bytes, bytes, bytes / kLineBytes,
            128, products);
        panel_logits(first, now, products, tile.states, tile.scale, tile.sums,
                     out + tile.first * vocabulary_);
      }
    }
  });
}

void Head::wide_logits(const float* states, int64_t rows, float* out, WorkerPool& pool) const {
  const kernels::WideProducts& wide = *products_.wide;
  // Digits of all states, zero behind the last column.
  const int64_t row_bytes = whole_row_bytes(width_);
  std::vector<kernels::Line> lines = whole_rows(2 * rows, width_);
  auto* const digits = reinterpret_cast<int8_t*>(lines.data());
  std::vector<int8_t> pairs(static_cast<size_t>(2 * width_));  // four high digits, four low ones, …
  std::vector<float> scales(static_cast<size_t>(rows));
  std::vector<int32_t> sums(static_cast<size_t>(2 * rows));
  for (int64_t s = 0; s < rows; ++s) {
    scales[static_cast<size_t>(s)] =
        kernels_.digits(states + s * width_, width_, pairs.data(), 8, sums.data() + 2 * s);
    int8_t* high = digits + 2 * s * row_bytes;
    for (int64_t i = 0; i < width_; i += 4) {
      std::copy_n(pairs.data() + 2 * i, 4, high + i);
      std::copy_n(pairs.data() + 2 * i + 4, 4, high + row_bytes + i);
    }
  }
  // Pairs of panels, unpacked or copied to whole steps where they do not lie so, for all states.
  const int64_t panels = static_cast<int64_t>(packed_.scale.size()) / kPanelOutputs;
  const int64_t bytes = HeadPanels::panel_bytes(width_, bits_), steps = kernels::wide_steps(width_);
  const bool as_they_are = bits_ == 8 && width_ % kernels::kWideColumns == 0;
  const int64_t stride = steps * kernels::kStepBytes;
  pool.split((panels + kWidePanels - 1) / kWidePanels, [&](int64_t begin, int64_t end) {
    int32_t products[2 * kWideRows * kWidePanels * kPanelOutputs];
    std::vector<kernels::Line> unpacked(static_cast<size_t>(kWidePanels * stride / kLineBytes));
    auto* const scratch = reinterpret_cast<uint8_t*>(unpacked.data());
    wide.begin();
    for (int64_t pair = begin; pair < end; ++pair) {
      const int64_t first = pair * kWidePanels, now = std::min(kWidePanels, panels - first);
      const uint8_t* codes = packed_.panels.data() + first * bytes;
      for (int64_t p = 0; p < now && !as_they_are; ++p) {
        const uint8_t* panel = codes + p * bytes;
        if (bits_ == 4) wide.unpack(panel, bytes / kLineBytes, scratch + p * stride);
        if (bits_ == 8) std::copy(panel, panel + bytes, scratch + p * stride);
      }
      for (int64_t s = 0; s < rows; s += kWideRows) {
        const int64_t states_now = std::min(kWideRows, rows - s);
        wide.tiles[2 * states_now > kWideRows][now - 1](digits + 2 * s * row_bytes, row_bytes,
                                                        as_they_are ? codes : scratch, stride,
                                                        steps, products);
        panel_logits(first, now, products, states_now, scales.data() + s, sums.data() + 2 * s,
                     out + s * vocabulary_);
      }
    }
    wide.end();
  });
}

void Head::panel_logits(int64_t first, int64_t panels, const int32_t* products, int64_t states,
                        const float* state_scale, const int32_t* sums, float* out) const {
  for (int64_t s = 0; s < states; ++s) {
    for (int64_t p = 0; p < panels; ++p) {
      const int32_t* high = products + (2 * s * panels + p) * kPanelOutputs;
      const int64_t v = (first + p) * kPanelOutputs;
      float values[kPanelOutputs];
      kernels_.head_panel(high, high + panels * kPanelOutputs, sums + 2 * s, bits_ == 8 ? 128 : 8,
                          packed_.scale.data() + v, state_scale[s], values);
      std::copy(values, values + std::min(kPanelOutputs, vocabulary_ - v),
                out + s * vocabulary_ + v);
    }
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
  // Bounds in fp64, widened for the rounding of fp32 sums of `width` products; then by row in fp32,
  // widened once more.
  double size = 0.0, largest = 0.0;
  for (const float h : state) {
    size += std::abs(static_cast<double>(h));
    largest = std::max(largest, std::abs(static_cast<double>(h)));
  }
  const double rounding = 0x1p-24 * (static_cast<double>(width_) / 16.0 + 16.0);
  const auto of_scale = static_cast<float>(
      1.001 * (0.5 * size + 0.5 * rounding * largest * static_cast<double>(width_)));
  const auto of_weight = static_cast<float>(1.001 * (0.5 * largest / 16255.0 + rounding * largest));
  const float* scale = packed_.scale.data();
  const float* weight = packed_.weight_sum.data();
  const float* z = logits.data();
  const auto error = [&](int64_t v) {
    return scale[v] * of_scale + weight[v] * of_weight + std::abs(z[v]) * 0x1p-20f;
  };
  // Find the best lower bound, and the best upper one of each block.
  const int64_t whole = count / kPanelOutputs * kPanelOutputs;
  std::vector<float> upper(static_cast<size_t>((whole + kBoundLogits - 1) / kBoundLogits));
  float best = kernels_.logit_bounds(z, scale, weight, whole, of_scale, of_weight, upper.data());
  for (int64_t v = whole; v < count; ++v) best = std::max(best, z[v] - error(v));
  // Compute in 16 bits what may be the largest; of equal logits the first wins.
  int32_t winner = -1;
  float winning = 0.0f;
  const auto judge = [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      if (!(z[v] + error(v) >= best)) continue;
      if (candidates != nullptr) ++*candidates;
      const float exact = kernels_.dot_half(state.data(), table_.data() + v * width_, width_);
      if (winner < 0 || exact > winning) {
        winner = static_cast<int32_t>(v);
        winning = exact;
      }
    }
  };
  // Look only into blocks whose upper bound reaches the best lower one.
  for (int64_t block = 0; block < whole; block += kBoundLogits) {
    if (upper[static_cast<size_t>(block / kBoundLogits)] >= best) {
      judge(block, std::min(whole, block + kBoundLogits));
    }
  }
  judge(whole, count);
  return winner < 0 ? first_largest() : winner;
}

}  // namespace osp
