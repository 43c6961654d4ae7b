#include "osp/diagnose/linear_noise.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/model/test_model.h"
#include "osp/ops/test_tensors.h"

namespace osp {
namespace {

TEST(StableRank, IsThatOfTheSingularValues) {
  EXPECT_NEAR(stable_rank(at::eye(12, at::kFloat)), 12.0, 1e-4);
  const at::Tensor one = at::ones({5, 7}, at::kFloat);
  EXPECT_NEAR(stable_rank(one), 1.0, 1e-5);
  const at::Tensor w = gaussian(24, 40, "weight");
  const at::Tensor s = std::get<1>(at::linalg_svd(w.to(at::kDouble)));
  const double expected = (s.square().sum() / s.max().square()).item<double>();
  EXPECT_NEAR(stable_rank(w), expected, 1e-3 * expected);
}

TEST(InformativeSqnr, TakesTheMeanFromTheSignal) {
  EXPECT_NEAR(informative_sqnr_db(20.0, 0.0), 20.0, 1e-12);
  EXPECT_NEAR(informative_sqnr_db(20.0, 0.9), 10.0, 1e-9);
}

// Feeds one input to the tap as attention's, for a model whose q is `q` [16, 8] and k, v zeros.
double gain_of_query(const at::Tensor& q, const at::Tensor& x) {
  ModelConfig config;
  config.layers = 1;
  config.width = 8;
  config.heads = 2;
  config.head_size = 8;
  config.inner = 8;
  config.vocabulary = 10;
  config.context = 8;
  config.norm = "rms";
  config.embedding_projection = false;
  ParameterStore store = initialized_model(config, 1);
  store.master(store.find(ParameterRole::query, 0)).copy_(q);
  sync_compute(store);
  LinearNoiseTap tap(store, {.query_key_hadamard = false});
  tap.at(TapPoint::attention_input, 0, x.narrow(0, 0, 2).unsqueeze(0));
  tap.at(TapPoint::attention_input, 0, x.narrow(0, 2, x.size(0) - 2).unsqueeze(0));
  for (const LinearNoise& one : tap.linears()) {
    if (one.role == ParameterRole::query) return one.noise_gain;
  }
  return -1;
}

TEST(NoiseGain, IsOneWhereAllDirectionsAreAlikeAndSmallWhereTheSignalIsAmplified) {
  const at::Tensor x = gaussian(64, 8, "input");
  const at::Tensor twice = at::zeros({16, 8}, at::kFloat);
  for (int64_t i = 0; i < 8; ++i) twice[i][i] = 2.0;
  EXPECT_NEAR(gain_of_query(twice, x), 1.0, 1e-5);
  // One row that reads the direction in which all of the signal lies.
  at::Tensor w = at::zeros({16, 8}, at::kFloat), line = at::zeros({6, 8}, at::kFloat);
  w[0][3] = 5.0;
  line.select(1, 3).copy_(gaussian(1, 6, "line")[0]);
  EXPECT_NEAR(gain_of_query(w, line), 1.0 / 8.0, 1e-6);
}

TEST(MeanShare, IsTheEnergyOfTheMeanOverTokensOfAllPasses) {
  const ParameterStore store = small_fused_model(2);
  const at::Tensor x = gaussian(12, 32, "input") + 0.7;
  LinearNoiseTap tap(store, {.query_key_hadamard = false});
  tap.at(TapPoint::mlp_input, 1, x.narrow(0, 0, 5).unsqueeze(0));
  tap.at(TapPoint::mlp_input, 1, x.narrow(0, 5, 7).unsqueeze(0));
  const at::Tensor wide = x.to(at::kDouble);
  const double expected =
      (wide.mean(0).square().sum() / wide.square().sum(-1).mean()).item<double>();
  EXPECT_NEAR(tap.mean_shares().at({TapPoint::mlp_input, 1}), expected, 1e-9);
}

}  // namespace
}  // namespace osp
