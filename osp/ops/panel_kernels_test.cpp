#include "osp/ops/panel_kernels.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "osp/ops/isa.h"

namespace osp {
namespace {

using namespace panel_kernels;

#define OSP_NEEDS_BF16_PRODUCTS() \
  if (!has_avx512_bf16()) GTEST_SKIP() << "needs a CPU with AVX512_BF16 (and OSP_ISA unset)"

using Words = std::vector<uint32_t>;

int64_t panels_for(int64_t count) { return (count + kPanel - 1) / kPanel; }

uint16_t* bits(const at::Tensor& x) { return reinterpret_cast<uint16_t*>(x.data_ptr()); }

// Panels of x [rows, cols] or, with `transposed`, of its transpose; as long as whole tiles are.
Words packed(const at::Tensor& x, bool transposed) {
  const int64_t rows = x.size(0), cols = x.size(1);
  const int64_t pairs = panels_for(transposed ? cols : rows) * kPanel / 2;
  const int64_t panels = panels_for(transposed ? rows : cols);
  Words words(panels * pairs * kPanel, 0xffffffffu);
  const auto pack = transposed ? pack_transposed_panel_avx512bf16 : pack_panel_avx512bf16;
  for (int64_t p = 0; p < panels; ++p) {
    pack(bits(x), rows, cols, x.stride(0), p, pairs, words.data() + p * pairs * kPanel);
  }
  return words;
}

const std::vector<std::pair<int64_t, int64_t>> kSizes = {
    {1, 1}, {7, 7}, {31, 33}, {32, 64}, {64, 32}, {255, 257}, {257, 255}, {100, 30}};

at::Tensor random_bf16(int64_t rows, int64_t cols) {
  return at::randn({rows, cols}).to(at::kBFloat16);
}

TEST(PanelKernels, PackingByPairsOfRowsIsAsDescribed) {
  OSP_NEEDS_BF16_PRODUCTS();
  for (const auto& [rows, cols] : kSizes) {
    const at::Tensor x = random_bf16(rows, cols);
    const Words words = packed(x, false);
    const int64_t pairs = panels_for(rows) * kPanel / 2;
    const auto number = [&](int64_t r, int64_t c) -> uint32_t {
      return r < rows && c < cols ? bits(x)[r * cols + c] : 0;
    };
    for (int64_t c = 0; c < panels_for(cols) * kPanel; ++c) {
      for (int64_t pair = 0; pair < pairs; ++pair) {
        ASSERT_EQ(words[(c / kPanel * pairs + pair) * kPanel + c % kPanel],
                  number(2 * pair, c) | number(2 * pair + 1, c) << 16)
            << rows << "x" << cols << " column " << c << " pair " << pair;
      }
    }
  }
}

TEST(PanelKernels, TransposedPanelsAreThoseOfTheTranspose) {
  OSP_NEEDS_BF16_PRODUCTS();
  for (const auto& [rows, cols] : kSizes) {
    const at::Tensor x = random_bf16(rows, cols);
    EXPECT_EQ(packed(x, true), packed(x.t().contiguous(), false)) << rows << "x" << cols;
  }
}

TEST(PanelKernels, UnpackingGivesTheMatrixBack) {
  OSP_NEEDS_BF16_PRODUCTS();
  for (const auto& [rows, cols] : kSizes) {
    const at::Tensor x = random_bf16(rows, cols);
    for (const bool transposed : {false, true}) {
      const Words words = packed(x, transposed);
      const auto unpack = transposed ? unpack_transposed_panel_avx512bf16 : unpack_panel_avx512bf16;
      const int64_t panels = panels_for(transposed ? rows : cols);
      const at::Tensor back = at::zeros_like(x);
      for (int64_t p = 0; p < panels; ++p) {
        unpack(words.data() + p * words.size() / panels, rows, cols, p, bits(back));
      }
      EXPECT_TRUE(at::equal(back, x)) << rows << "x" << cols << " " << transposed;
    }
  }
}

// 3 · left[:, panel]ᵀ right[:, panel] + old, of the first panels, stored both ways.
TEST(PanelKernels, TilesAreProductsRoundedOnce) {
  OSP_NEEDS_BF16_PRODUCTS();
  for (const int64_t depth : {1, 33, 250, 700}) {
    const at::Tensor left = random_bf16(depth, kPanel), right = random_bf16(depth, kPanel);
    const at::Tensor old = random_bf16(kPanel, kPanel);
    const Words l = packed(left, false), r = packed(right, false), o = packed(old, false);
    alignas(64) float tile[kTile];
    multiply_panels_avx512bf16(l.data(), 0, 1, r.data(), 0, 1,
                               static_cast<int64_t>(l.size()) / kPanel, false, tile);
    Words out(kTileWords), transposed(kTileWords);
    store_tile_avx512bf16(tile, 3, {0.5f, o.data()}, {}, out.data(), transposed.data());
    const at::Tensor wanted =
        at::mm(left.to(at::kDouble).t(), right.to(at::kDouble)) * 3 + old.to(at::kDouble) * 0.5;
    const at::Tensor got = at::zeros_like(old);
    unpack_panel_avx512bf16(out.data(), kPanel, kPanel, 0, bits(got));
    // Rounded to 8 bits once; fp32 sums of `depth` products of size 1 add 1e-4.
    const at::Tensor allowed = wanted.abs() * (1.0 / 256) + 1e-4;
    EXPECT_TRUE(((got.to(at::kDouble) - wanted).abs() <= allowed).all().item<bool>()) << depth;
    const at::Tensor turned = at::zeros_like(old);
    unpack_panel_avx512bf16(transposed.data(), kPanel, kPanel, 0, bits(turned));
    EXPECT_TRUE(at::equal(turned, got.t())) << depth;
  }
}

TEST(PanelKernels, CombinationIsRoundedOnce) {
  OSP_NEEDS_BF16_PRODUCTS();
  const at::Tensor x = random_bf16(32, 32), y = random_bf16(32, 32);
  Words words = packed(x, false);
  combine_avx512bf16(words.data(), 2, packed(y, false).data(), -3, kTileWords);
  const at::Tensor got = at::zeros_like(x);
  unpack_panel_avx512bf16(words.data(), 32, 32, 0, bits(got));
  EXPECT_TRUE(at::equal(got, (x.to(at::kFloat) * 2 + y.to(at::kFloat) * -3).to(at::kBFloat16)));
}

}  // namespace
}  // namespace osp
