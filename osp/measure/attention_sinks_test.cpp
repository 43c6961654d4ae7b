#include "osp/measure/attention_sinks.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/philox.h"
#include "osp/measure/outliers.h"

namespace osp {
namespace {

at::Tensor normal_sinks(at::IntArrayRef shape, const char* name) {
  at::Tensor x = at::zeros(shape, at::kFloat);
  RandomStream(4, name).fill_normal({x.data_ptr<float>(), static_cast<size_t>(x.numel())}, 0, 1);
  return x;
}

void expect_columns_near(const HeadColumns& a, const HeadColumns& b) {
  ASSERT_EQ(a.share.size(), b.share.size());
  for (size_t s = 0; s < a.share.size(); ++s) {
    // fp32 products of 8 numbers of size 1 against fp64.
    EXPECT_NEAR(a.share[s], b.share[s], 2e-6);
    if (std::isnan(b.sink_logit[s])) {
      EXPECT_TRUE(std::isnan(a.sink_logit[s]));
      continue;
    }
    EXPECT_NEAR(a.sink_logit[s], b.sink_logit[s], 1e-5);
    EXPECT_NEAR(a.other_logit[s], b.other_logit[s], 1e-5);
  }
}

TEST(AttentionSinks, HeadEqualsItsNaiveTwin) {
  for (const int64_t T : {5, 300}) {  // 300 rows: more than one block of them
    const at::Tensor q = normal_sinks({T, 8}, "q"), k = normal_sinks({T, 8}, "k");
    for (const int64_t window : {0, 4, 129}) {
      SCOPED_TRACE(fmt::format("T {} window {}", T, window));
      expect_columns_near(measure_head(q, k, window, nullptr),
                          measure_head_reference(q, k, window));
    }
  }
}

TEST(AttentionSinks, ALearnedSinkTakesItsPartOfEveryQuery) {
  // All keys alike: query t gives each of its t + 1 keys 1 / (t + 1 + e^s).
  const at::Tensor q = at::zeros({40, 8}), k = normal_sinks({40, 8}, "k");
  const HeadColumns columns = measure_head(q, k, 0, nullptr, 0.0, std::log(3.0));
  double share = 0.0;
  for (int64_t t = 0; t < 40; ++t) share += 1.0 / (static_cast<double>(t) + 4.0) / 40.0;
  EXPECT_NEAR(columns.share[0], share, 1e-6);  // fp32 softmax
  EXPECT_NEAR(columns.share[39], 1.0 / 43.0, 1e-7);
}

// Key 0 has logit `sink` with every query, every other key `other`.
HeadColumns two_levels(int64_t T, double sink, double other, LogitStatistics* logits = nullptr) {
  const at::Tensor q = at::zeros({T, 4}, at::kFloat).fill_(1.0);
  const at::Tensor k = at::zeros({T, 4}, at::kFloat).fill_(other / 2.0);  // sqrt(K) = 2, K = 4
  k.select(0, 0).fill_(sink / 2.0);
  return measure_head(q, k, 0, logits);
}

TEST(AttentionSinks, KnownSinkHasItsShareAndItsGap) {
  LogitStatistics logits;
  const HeadColumns columns = two_levels(32, 3.0, -1.0, &logits);
  double share = 0.0;
  for (int64_t t = 0; t < 32; ++t) share += 1.0 / (1.0 + t * std::exp(-4.0)) / 32.0;
  EXPECT_NEAR(columns.share[0], share, 1e-6);  // fp32 softmax
  EXPECT_NEAR(columns.sink_logit[0], 3.0, 1e-6);
  EXPECT_NEAR(columns.other_logit[0], -1.0, 1e-6);
  EXPECT_TRUE(std::isnan(columns.sink_logit[31]));
  // Every query sees key 0, query t sees t others.
  EXPECT_EQ(logits.moments.count, 32 * 33 / 2);
  EXPECT_NEAR(logits.moments.mean, (32 * 3.0 - 31 * 16) / (32 * 33 / 2), 1e-12);
  // One number of n at another level: kurtosis n²/(n − 1) − 6 + … of a Bernoulli with p = 1/n.
  double kurtosis = 0.0;
  for (int64_t n = kLeastKeysForKurtosis; n <= 32; ++n) {
    const double p = 1.0 / n;
    kurtosis += (1.0 - 6.0 * p * (1.0 - p)) / (p * (1.0 - p));
  }
  EXPECT_NEAR(logits.kurtosis.mean(), kurtosis / (33 - kLeastKeysForKurtosis), 1e-9);
}

TEST(AttentionSinks, UniformAttentionHasNoSink) {
  const HeadColumns columns = two_levels(64, 0.5, 0.5);
  double share = 0.0;
  for (int64_t t = 0; t < 64; ++t) share += 1.0 / (1.0 + t) / 64.0;
  EXPECT_NEAR(columns.share[0], share, 1e-6);
  EXPECT_LT(columns.share[0], kSinkShare);
  EXPECT_NEAR(columns.sink_logit[0], columns.other_logit[0], 1e-6);
}

ModelConfig one_layer() {
  ModelConfig config;
  config.layers = 1;
  config.heads = 4;
  config.kv_heads = 2;
  config.width = 32;
  config.head_size = 8;
  config.vocabulary = 50;
  return config;
}

void feed(AttentionSinkTap& tap, const at::Tensor& tokens, const at::Tensor& x, const at::Tensor& q,
          const at::Tensor& k, const at::Tensor& v) {
  tap.begin(tokens);
  tap.at(TapPoint::embedding, 0, x);
  tap.at(TapPoint::query, 0, q);
  tap.at(TapPoint::key, 0, k);
  tap.at(TapPoint::value, 0, v);
}

TEST(AttentionSinks, StreamInPiecesEqualsTheWhole) {
  const at::Tensor tokens = at::arange(3 * 40, at::kLong).remainder(50).view({3, 40});
  const at::Tensor x = normal_sinks({3, 40, 32}, "x"), q = normal_sinks({3, 4, 40, 8}, "q");
  const at::Tensor k = normal_sinks({3, 2, 40, 8}, "k"), v = normal_sinks({3, 2, 40, 8}, "v");
  AttentionSinkTap whole(one_layer()), pieces(one_layer());
  feed(whole, tokens, x, q, k, v);
  for (const auto& [first, count] : {std::pair<int64_t, int64_t>{0, 1}, {1, 2}}) {
    const auto part = [&, first = first, count = count](const at::Tensor& y) {
      return y.narrow(0, first, count);
    };
    feed(pieces, part(tokens), part(x), part(q), part(k), part(v));
  }
  ASSERT_EQ(pieces.sinks().sequences, 3);
  for (size_t h = 0; h < 4; ++h) {
    const HeadSinks &a = whole.sinks().heads[0][h], &b = pieces.sinks().heads[0][h];
    EXPECT_EQ(a.first.share, b.first.share);  // the same sums in the same order
    EXPECT_EQ(a.strongest.sink_logit, b.strongest.sink_logit);
    EXPECT_EQ(a.share_by_position, b.share_by_position);
    EXPECT_EQ(a.strongest_token, b.strongest_token);
    EXPECT_EQ(a.logits.moments.m4, b.logits.moments.m4);
  }
}

TEST(AttentionSinks, HeadsUseTheKeysOfTheirGroupAndNormsOfTheirPositions) {
  const at::Tensor tokens = at::arange(20, at::kLong).view({1, 20});
  const at::Tensor x = normal_sinks({1, 20, 32}, "x"), q = normal_sinks({1, 4, 20, 8}, "q");
  const at::Tensor k = normal_sinks({1, 2, 20, 8}, "k"), v = normal_sinks({1, 2, 20, 8}, "v");
  AttentionSinkTap tap(one_layer());
  feed(tap, tokens, x, q, k, v);
  for (int64_t h = 0; h < 4; ++h) {
    const HeadSinks& head = tap.sinks().heads[0][static_cast<size_t>(h)];
    const HeadColumns columns = measure_head_reference(q[0][h], k[0][h / 2], 0);
    EXPECT_NEAR(head.first.share, columns.share[0], 2e-6);
    EXPECT_NEAR(head.first.key_norm, k[0][h / 2][0].norm().item<double>(), 1e-5);
    const double others = v[0][h / 2].narrow(0, 1, 19).norm(2, 1).mean().item<double>();
    EXPECT_NEAR(head.first.other_value_norm, others, 1e-5);
    EXPECT_NEAR(head.first.residual_norm, x[0][0].norm().item<double>(), 1e-5);
    const auto begin = columns.share.begin();
    const int64_t strongest = std::max_element(begin, begin + 10) - begin;
    EXPECT_NEAR(head.strongest.share, columns.share[static_cast<size_t>(strongest)], 2e-6);
    EXPECT_EQ(head.strongest_token.begin()->first, strongest);
  }
}

}  // namespace
}  // namespace osp
