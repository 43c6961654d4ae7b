// Products of many rows (WideProducts) against those of the portable level, in every bit.
#include "osp/runtime/linear_product.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/full.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "osp/runtime/test_emulated_amx.h"

namespace osp {
namespace {

using kernels::CodeProducts;

// Codes of weights (−8 … 7) and of activations (0 … 15, or −128 … 127): random ones, or all equal.
struct Codes {
  int weight_low, weight_high, low, high;
};
constexpr Codes kRandom4 = {-8, 7, 0, 15}, kRandom8 = {-8, 7, -128, 127};
constexpr Codes kExtremes[] = {
    {-8, -8, 15, 15}, {7, 7, 15, 15}, {7, 7, -128, -128}, {7, 7, 127, 127}, {-8, -8, 127, 127}};

struct ProductCase {
  int64_t rows, columns, segment;
  PackedLinear weight;
  at::Tensor codes;  // int8 [rows, columns]
};

at::Tensor random_codes(int low, int high, int64_t rows, int64_t columns, uint64_t seed) {
  at::Generator random = at::make_generator<at::CPUGeneratorImpl>(seed);
  return at::randint(low, high + 1, {rows, columns}, random).to(at::kChar);
}

ProductCase product_case(int64_t rows, int64_t panels, int64_t columns, int64_t segment,
                         const Codes& codes) {
  const int64_t outputs = panels * kernels::kPanelOutputs;
  QuantizedLinear weight;
  weight.codes = random_codes(codes.weight_low, codes.weight_high, outputs, columns, 1);
  weight.scale = at::full({outputs, 1}, 0.37f);
  LinearPart part;
  part.weight = &weight;
  return {rows, columns, segment, pack_linear({part}, segment, false),
          random_codes(codes.low, codes.high, rows, columns, 2)};
}

std::vector<float> product_at(const ProductCase& c, const CodeProducts& level, int64_t threads) {
  const bool shifted = c.codes.min().item<int>() < 0;
  const kernels::CodeGrid grid{.group = c.segment,
                               .segment = c.segment,
                               .top = shifted ? 255.0f : 15.0f,
                               .shift = shifted ? 128.0f : 0.0f};
  CodeBuffer buffer(level.wide != nullptr);
  // Rows of an earlier, larger pass: nothing of them may be seen.
  buffer.resize(c.rows + 40, c.columns + 64 * c.segment, grid);
  for (int64_t r = 0; r < c.rows + 40; ++r) {
    std::fill_n(buffer.row(r).codes, 4, int8_t{99});
  }
  buffer.resize(c.rows, c.columns, grid);
  const auto* codes = c.codes.const_data_ptr<int8_t>();
  for (int64_t r = 0; r < c.rows; ++r) {
    const kernels::CodeRow row = buffer.row(r);
    for (int64_t t = 0; t < c.columns / c.segment; ++t) row.sum[t] = 0;
    for (int64_t i = 0; i < c.columns; ++i) {
      const int8_t code = codes[r * c.columns + i];
      row.codes[i / 4 * row.stride + i % 4] = code;
      row.sum[i / c.segment] += code;
    }
    for (int64_t t = 0; t < c.columns / c.segment; ++t) {
      row.scale[t] = 0.01f * static_cast<float>(r + 3 * t + 1);
      row.zero[t] = static_cast<float>(r % 5 - t);
    }
  }
  std::vector<float> out(static_cast<size_t>(c.rows * c.weight.outputs));
  WorkerPool pool(threads);
  linear_product(buffer, c.weight, kernels::engine_kernels_portable(), level, nullptr, out.data(),
                 pool);
  return out;
}

void expect_the_bits_of_portable(const CodeProducts& level, const ProductCase& c) {
  const std::vector<float> right = product_at(c, kernels::code_products_portable(), 1);
  for (const int64_t threads : {1, 2}) {
    ASSERT_EQ(product_at(c, level, threads), right)
        << level.name << ": " << c.rows << " rows, " << c.weight.panel_count() << " panels, "
        << c.columns << " columns in parts of " << c.segment;
  }
}

void expect_the_bits_of_portable(const CodeProducts& level) {
  for (int64_t rows = 1; rows <= 40; ++rows) {
    for (int64_t panels = 1; panels <= 5; ++panels) {
      const int64_t columns = 16 * (1 + (rows * 5 + panels) % 17);
      for (const Codes& codes : {kRandom4, kRandom8}) {
        expect_the_bits_of_portable(level, product_case(rows, panels, columns, columns, codes));
      }
    }
  }
  for (const int64_t columns : {16, 48, 64, 80, 208, 576}) {
    for (const Codes& codes : kExtremes) {
      expect_the_bits_of_portable(level, product_case(17, 3, columns, columns, codes));
    }
    for (const int64_t segment : {16, 48, 64}) {
      if (columns % segment != 0) continue;
      expect_the_bits_of_portable(level, product_case(37, 5, columns, segment, kRandom8));
    }
  }
}

TEST(LinearProduct, EmulatedAmxGivesTheBitsOfPortable) {
  expect_the_bits_of_portable(code_products_emulated_amx());
}

TEST(LinearProduct, AmxGivesTheBitsOfPortable) {
  if (!has_amx_int8()) GTEST_SKIP() << "no AMX-INT8 here: its logic is tested by an emulation only";
  expect_the_bits_of_portable(kernels::code_products_amx());
}

TEST(LinearProduct, PortableGivesTheIntegers) {
  const ProductCase c = product_case(18, 3, 208, 208, kRandom4);
  const std::vector<float> out = product_at(c, kernels::code_products_portable(), 1);
  const at::Tensor weight = random_codes(-8, 7, 48, 208, 1).to(at::kDouble);
  for (int64_t r = 0; r < 18; ++r) {
    const double zero = static_cast<double>(r % 5);
    const at::Tensor right = weight.matmul(c.codes[r].to(at::kDouble) - zero);
    for (int64_t o = 0; o < 48; ++o) {
      const float whole = right[o].item<float>();  // exact: below 2^24
      EXPECT_EQ(out[static_cast<size_t>(r * 48 + o)],
                whole * 0.37f * (0.01f * static_cast<float>(r + 1)));
    }
  }
}

}  // namespace
}  // namespace osp
