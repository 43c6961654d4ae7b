#include "osp/runtime/head.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "osp/ops/isa.h"
#include "osp/runtime/test_emulated_amx.h"
#include "osp/runtime/test_quantized.h"

namespace osp {
namespace {

struct HeadCase {
  int64_t vocabulary, width;
  std::vector<uint16_t> table;
  std::vector<float> states;
};

// `outlier`: one channel of the states is that many times as large.
HeadCase head_case(int64_t rows, float outlier, int64_t width = 64) {
  HeadCase c{1003, width, {}, {}};
  at::Generator random = at::make_generator<at::CPUGeneratorImpl>(uint64_t{5});
  c.table = to_half(at::randn({c.vocabulary, c.width}, random), "table");
  at::Tensor states = at::randn({rows, c.width}, random);
  states.select(1, 7).mul_(outlier);
  const float* data = states.const_data_ptr<float>();
  c.states.assign(data, data + states.numel());
  return c;
}

std::vector<float> logits_of(const HeadCase& c, int64_t bits, int64_t rows,
                             const kernels::CodeProducts& products = active_code_products()) {
  WorkerPool pool(2);
  Head head(c.table, c.vocabulary, c.width, bits, active_engine_kernels(), products);
  std::vector<float> out(static_cast<size_t>(rows * c.vocabulary));
  head.logits(c.states, rows, out, pool);
  return out;
}

TEST(Head, LogitsOf16BitsAreProducts) {
  const HeadCase c = head_case(3, 1.0f);
  const std::vector<float> z = logits_of(c, 16, 3);
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t v = 0; v < c.vocabulary; ++v) {
      double sum = 0.0;
      std::vector<float> row(64);
      active_engine_kernels().from_half(c.table.data() + v * 64, row.data(), 64);
      for (int64_t i = 0; i < 64; ++i) {
        sum += double{row[static_cast<size_t>(i)]} * c.states[static_cast<size_t>(r * 64 + i)];
      }
      ASSERT_NEAR(z[static_cast<size_t>(r * c.vocabulary + v)], sum, 1e-4);
    }
  }
}

TEST(Head, FewerBitsAreNearAndRowsDoNotDependOnTheirNeighbours) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 9}) {
    const HeadCase c = head_case(rows, 1.0f);
    const std::vector<float> exact = logits_of(c, 16, rows);
    for (const auto& [bits, error] : {std::pair<int64_t, double>{8, 0.2}, {4, 5.0}}) {
      const std::vector<float> z = logits_of(c, bits, rows);
      for (size_t i = 0; i < z.size(); ++i) ASSERT_NEAR(z[i], exact[i], error) << bits;
      HeadCase last = c;
      last.states.erase(last.states.begin(), last.states.end() - 64);
      const std::vector<float> alone = logits_of(last, bits, 1);
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), z.end() - c.vocabulary)) << rows;
    }
  }
}

TEST(Head, ManyRowsByProductsOfWholeRowsAreTheSameBits) {
  for (const kernels::CodeProducts* level : wide_levels()) {
    for (const int64_t width : {48, 64, 208}) {
      for (const int64_t rows : {7, 8, 16, 17, 41}) {
        const HeadCase c = head_case(rows, 1.0f, width);
        for (const int64_t bits : {8, 4}) {
          EXPECT_EQ(logits_of(c, bits, rows, *level),
                    logits_of(c, bits, rows, kernels::code_products_portable()))
              << level->name << ' ' << width << ' ' << rows << ' ' << bits;
        }
      }
    }
  }
}

TEST(Head, ARowThatLostMuchByRoundingMayStillWin) {
  // Row 0: 1.27, and 63 numbers of 0.4 steps that all become 0. Row 1: loses nothing.
  at::Tensor rows = at::zeros({2, 64});
  rows[0].fill_(0.004);
  rows[0][0] = 1.27;
  rows[1].fill_(0.0218);
  const std::vector<uint16_t> table = to_half(rows, "table");
  Head head(table, 2, 64, 8, active_engine_kernels(), active_code_products());
  const std::vector<float> state(64, 1.0f);
  std::vector<float> z(2);
  WorkerPool pool(1);
  head.logits(state, 1, z, pool);
  EXPECT_LT(z[0], z[1] - 0.1f);
  EXPECT_EQ(head.greedy(state, z, 2), 0);
}

TEST(Head, BoundsOfLogitsAreTheFormulaAtEveryLevel) {
  constexpr int64_t kCount = 304;  // two blocks and a part
  std::vector<float> z, scale, weight;
  for (int64_t v = 0; v < kCount; ++v) {
    z.push_back(static_cast<float>((v * 37) % 101) - 50.5f);
    scale.push_back(0.01f * static_cast<float>(v % 7));
    weight.push_back(0.1f * static_cast<float>(v % 11));
  }
  z[5] = z[303] = std::numeric_limits<float>::quiet_NaN();
  const float of_scale = 3.3f, of_weight = 0.7f;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  float lower = kLowest;
  std::vector<float> upper(3, kLowest);
  for (size_t v = 0; v < z.size(); ++v) {
    const float error = scale[v] * of_scale + weight[v] * of_weight + std::abs(z[v]) * 0x1p-20f;
    float& block = upper[v / kernels::kBoundLogits];
    if (z[v] - error > lower) lower = z[v] - error;
    if (z[v] + error > block) block = z[v] + error;
  }
  std::vector<const kernels::EngineKernels*> levels = {&kernels::engine_kernels_portable()};
  if (detect_isa() >= Isa::avx2) levels.push_back(&kernels::engine_kernels_avx2());
  if (detect_isa() >= Isa::avx512) levels.push_back(&kernels::engine_kernels_avx512());
  for (const kernels::EngineKernels* level : levels) {
    std::vector<float> found(3);
    EXPECT_EQ(level->logit_bounds(z.data(), scale.data(), weight.data(), kCount, of_scale,
                                  of_weight, found.data()),
              lower)
        << level->name;
    EXPECT_EQ(found, upper) << level->name;
  }
}

TEST(Head, TheGreedyTokenIsThatOf16Bits) {
  const int64_t rows = 300;
  for (const float outlier : {1.0f, 200.0f}) {
    const HeadCase c = head_case(rows, outlier);
    const std::vector<float> exact = logits_of(c, 16, rows);
    for (const int64_t bits : {8, 4}) {
      Head head(c.table, c.vocabulary, c.width, bits, active_engine_kernels(),
                active_code_products());
      const std::vector<float> z = logits_of(c, bits, rows);
      int64_t differ = 0, all = 0;
      for (int64_t r = 0; r < rows; ++r) {
        const auto mine = std::span(z).subspan(static_cast<size_t>(r * c.vocabulary), 1003);
        const auto right = std::span(exact).subspan(static_cast<size_t>(r * c.vocabulary), 1000);
        const auto winner = std::max_element(right.begin(), right.end()) - right.begin();
        int64_t candidates = 0;
        EXPECT_EQ(head.greedy(std::span(c.states).subspan(static_cast<size_t>(r * 64), 64), mine,
                              1000, &candidates),
                  winner);
        differ += std::max_element(mine.begin(), mine.begin() + 1000) - mine.begin() != winner;
        all += candidates;
      }
      EXPECT_GE(all, rows);
      EXPECT_LT(all, rows * (bits == 8 ? 40 : 700));
      if (bits == 4) {
        EXPECT_GT(differ, 0);  // the bound has work to do
      }
    }
  }
}

}  // namespace
}  // namespace osp
