#include "osp/ptq/spinquant.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"
#include "osp/ops/test_tensors.h"
#include "osp/ptq/quarot.h"
#include "osp/ptq/rotation_check.h"
#include "osp/ptq/rotation_store.h"
#include "osp/ptq/spinquant_tap.h"
#include "osp/ptq/test_invariance.h"

namespace osp {
namespace {

// Two channels of the residual stream are outliers; token t + 7 (mod 61) follows token t, and the
// model predicts it: the embedding outweighs what the blocks add to it.
ParameterStore model() {
  ModelConfig config = grouped_query_config(61, 32);
  config.norm = "rms";
  config.embedding_projection = false;
  config.init_std = 0.2;
  ParameterStore store = initialized_model(config, 7);
  for (size_t i = 0; i < store.specs.size(); ++i) {
    at::Tensor w = store.master(static_cast<int64_t>(i));
    if (store.specs[i].kind == ParameterKind::embedding) {
      w.mul_(5.0);
      w.narrow(1, 5, 2).mul_(4.0);
    }
    if (store.specs[i].kind == ParameterKind::gain) w.narrow(0, 0, 3).fill_(2.0);
  }
  // Predicts the next token of token_chain(), so that quantization has something to spoil.
  store.master(store.find("lm_head.weight"))
      .copy_(store.master(store.find("model.embed_tokens.weight")).roll(7, 0));
  return store;
}

at::Tensor token_chain() { return at::arange(256, at::kLong).mul(7).remainder(61).view({8, 32}); }

double change_by(const RotationPlan& plan) {
  const ParameterStore before = copy_in_fp64(model());
  ParameterStore after = copy_in_fp64(before);
  rotate_model(after, plan);
  return InvarianceCheck(before, token_chain()).change(after, plan.online());
}

// Models whose biases or means R1 must respect, with biases that are not 0.
std::vector<std::pair<const char*, ParameterStore>> biased_models() {
  ModelConfig llama = model().config;
  llama.qkv_bias = llama.output_bias = llama.mlp_bias = true;
  ModelConfig pythia = llama;
  pythia.norm = "layer";
  pythia.parallel = true;
  pythia.gated = false;
  pythia.activation = "gelu";
  ModelConfig stablelm = model().config;
  stablelm.norm = "layer";
  stablelm.parallel = stablelm.shared_norm = true;
  ModelConfig opt = llama;
  opt.norm = "layer";
  opt.gated = false;
  opt.activation = "relu";
  opt.learned_positions = true;
  ModelConfig olmo = model().config;
  olmo.norm = "layer-plain";
  std::vector<std::pair<const char*, ParameterStore>> models;
  for (const auto& [name, config] : {std::pair<const char*, ModelConfig>{"Llama", llama},
                                     {"Pythia", pythia},
                                     {"StableLM", stablelm},
                                     {"OPT", opt},
                                     {"OLMo", olmo}}) {
    ParameterStore store = initialized_model(config, 7);
    for (size_t i = 0; i < store.specs.size(); ++i) {
      const bool vector = store.specs[i].shape.size() == 1;
      if (vector)
        store.master(static_cast<int64_t>(i))
            .add_(gaussian(1, store.specs[i].shape[0], store.specs[i].name.c_str())[0] * 0.3);
    }
    sync_compute(store);
    models.emplace_back(name, std::move(store));
  }
  return models;
}

// A prepared copy of a store, and the tap of QuaRot's rotations on it.
struct Rotated {
  ParameterStore prepared;
  at::Tensor residual;
  std::vector<at::Tensor> values = {};
  OnlineTransforms online = {};

  explicit Rotated(const ParameterStore& store) : prepared(copy_in_fp32(store)) {
    const RotationPlan plan = quarot_plan(store.config, {.seed = 3});
    rotate_model(prepared, {.fold_norms = true, .down = true});
    residual = plan.residual->dense().to(at::kFloat);
    for (const Rotation& q : plan.values) values.push_back(q.dense().to(at::kFloat));
    online = plan.online();
  }
};

TEST(SpinQuantTap, LogitsStayWithBiasesAndWithMeansThatAreSubtracted) {
  for (const auto& [name, store] : biased_models()) {
    const Rotated rotated(store);
    SpinQuantTap tap(rotated.prepared, parse_bits("16-16-16"), rotated.online, rotated.residual,
                     rotated.values);
    ForwardOptions options;
    options.tap = &tap;
    const at::Tensor expected = forward_logits(store, token_chain());
    const at::Tensor change = forward_logits(rotated.prepared, token_chain(), options) - expected;
    // fp32 through two blocks
    EXPECT_LT(change.abs().max().item<double>(), 1e-4 * expected.abs().max().item<double>())
        << name;
  }
}

TEST(SpinQuantTap, ALossThatNoRotationChangesHasNoGradientAlongOne) {
  for (const auto& [name, store] : biased_models()) {
    const Rotated rotated(store);
    const at::Tensor residual = rotated.residual.clone().requires_grad_(true);
    SpinQuantTap tap(rotated.prepared, parse_bits("16-16-16"), rotated.online, residual,
                     rotated.values);
    ForwardOptions options;
    options.tap = &tap;
    options.training = true;
    const at::Tensor tokens = token_chain();
    forward_loss_sum(rotated.prepared, tokens.narrow(1, 0, 31).contiguous(),
                     tokens.narrow(1, 1, 31).contiguous(), options, 1.0 / 248)
        .backward();
    // A turn, which keeps the mean: S with S 1 = 0.
    at::Tensor s = gaussian(32, 32, "s");
    s = s - s.t();
    s = s - s.mean(1, true) - s.mean(0, true);
    const at::Tensor turn = at::matmul(residual.detach(), s);
    const at::Tensor& gradient = residual.grad();
    const double size = (gradient.norm() * turn.norm()).item<double>();
    EXPECT_GT(gradient.norm().item<double>(), 1e-3) << name;
    // fp32 sums of terms of both signs; without the gradient of one bias 1e-2 and more.
    EXPECT_LT(std::abs((gradient * turn).sum().item<double>()), 1e-4 * size) << name;
  }
}

TEST(SpinQuant, LearnedRotationsLeaveTheLogitsOfModelsWithBiasesAndMeans) {
  for (const auto& [name, store] : biased_models()) {
    for (const SpinObjective objective : {SpinObjective::kurtosis, SpinObjective::end_to_end}) {
      SpinQuantOptions options;
      options.objective = objective;
      options.steps = 6;
      const SpinQuantResult result = learn_rotations(store, token_chain(), options);
      const RotationPlan start = quarot_plan(store.config);
      EXPECT_GT(
          (result.plan.residual->dense() - start.residual->dense()).abs().max().item<double>(),
          1e-3)
          << name;
      const ParameterStore before = copy_in_fp64(store);
      ParameterStore after = copy_in_fp64(before);
      rotate_model(after, result.plan);
      EXPECT_LT(InvarianceCheck(before, token_chain()).change(after, result.plan.online()), 1e-12)
          << name;
    }
  }
}

TEST(SpinQuantTap, WeightsAreThoseOfTheRotatedModel) {
  const ParameterStore store = model();
  const RotationPlan plan = quarot_plan(store.config, {.seed = 3});
  ParameterStore prepared = copy_in_fp32(store), rotated = copy_in_fp32(store);
  rotate_model(prepared, {.fold_norms = true, .down = true});
  rotate_model(rotated, plan);
  std::vector<at::Tensor> values;
  for (const Rotation& q : plan.values) values.push_back(q.dense().to(at::kFloat));
  SpinQuantTap tap(prepared, parse_bits("16-16-16"), plan.online(),
                   plan.residual->dense().to(at::kFloat), values);
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (store.specs[i].kind != ParameterKind::matrix) continue;
    const int64_t parameter = static_cast<int64_t>(i);
    const at::Tensor w = tap.weight(parameter, prepared.compute(parameter));
    if (store.specs[i].name.ends_with("v_proj.weight")) continue;  // values are turned themselves
    // fp32 products of 32 terms of size about 0.2
    EXPECT_LT(w.sub(rotated.master(parameter)).abs().max().item<double>(), 2e-6)
        << store.specs[i].name;
  }
}

TEST(SpinQuantTap, WithoutQuantizationTheLogitsStay) {
  const ParameterStore store = model();
  const RotationPlan plan = quarot_plan(store.config, {.seed = 3});
  ParameterStore prepared = copy_in_fp32(store);
  rotate_model(prepared, {.fold_norms = true, .down = true});
  std::vector<at::Tensor> values;
  for (const Rotation& q : plan.values) values.push_back(q.dense().to(at::kFloat));
  SpinQuantTap tap(prepared, parse_bits("16-16-16"), plan.online(),
                   plan.residual->dense().to(at::kFloat), values);
  ForwardOptions options;
  options.tap = &tap;
  const at::Tensor expected = forward_logits(store, token_chain());
  const at::Tensor change = forward_logits(prepared, token_chain(), options).sub(expected);
  // fp32 through two blocks
  EXPECT_LT(change.abs().max().item<double>(), 1e-4 * expected.abs().max().item<double>());
}

TEST(SpinQuant, GradientOfTheKurtosisIsThatOfFiniteDifferences) {
  const at::Tensor x = gaussian(50, 6, "x").to(at::kDouble),
                   q = std::get<0>(at::linalg_qr(gaussian(6, 6, "q").to(at::kDouble)));
  const at::Tensor gradient = rotated_kurtosis(x, q).gradient;
  // Along a turn, on which m₂ stays: Q (I + t S).
  const at::Tensor s = gaussian(6, 6, "s").to(at::kDouble), turn = at::matmul(q, s - s.t());
  const double h = 1e-5;
  const double slope =
      (rotated_kurtosis(x, q + turn * h).value - rotated_kurtosis(x, q - turn * h).value) / (2 * h);
  // The gradient is times the row's length, 6; central differences err by h² = 1e-10.
  EXPECT_NEAR((gradient * turn).sum().item<double>(), 6 * slope, 1e-6 * std::abs(6 * slope) + 1e-8);
}

TEST(SpinQuant, KurtosisFallsLayerByLayer) {
  SpinQuantOptions options;
  options.objective = SpinObjective::kurtosis;
  options.steps = 40;
  const SpinQuantResult result = learn_rotations(model(), token_chain(), options);
  ASSERT_EQ(result.objectives.size(), 40u);
  EXPECT_LT(result.objectives.back(), 0.95 * result.objectives.front());
  EXPECT_LT(change_by(result.plan), 1e-12);
}

TEST(SpinQuant, CrossEntropyOfTheQuantizedModelFalls) {
  SpinQuantOptions options;
  options.bits = parse_bits("16-3-3");
  options.steps = 60;
  options.batch = 8;  // all windows in every step, so that objectives can be compared
  const SpinQuantResult result = learn_rotations(model(), token_chain(), options);
  const auto mean_of = [&](size_t first) {
    double sum = 0;
    for (size_t i = 0; i < 10; ++i) sum += result.objectives[first + i];
    return sum / 10;
  };
  // Rounding makes single steps go up and down by 0.2, and the way depends on the roundings of the
  // products; at its best the mean of ten steps is 0.25 to 0.4 below that of the first ten.
  double least = mean_of(0);
  for (size_t first = 1; first + 10 <= result.objectives.size(); ++first) {
    least = std::min(least, mean_of(first));
  }
  EXPECT_LT(least, mean_of(0) - 0.15);
  EXPECT_LT(orthogonality_error(result.plan.residual->dense()), 1e-6);
  EXPECT_LT(change_by(result.plan), 1e-12);
}

TEST(SpinQuant, SameSeedGivesTheSameRotations) {
  SpinQuantOptions options;
  options.steps = 3;
  const auto learn = [&] { return learn_rotations(model(), token_chain(), options); };
  const SpinQuantResult a = learn(), b = learn();
  EXPECT_TRUE(a.plan.residual->matrix.equal(b.plan.residual->matrix));
  options.seed = 1;
  EXPECT_FALSE(a.plan.residual->matrix.equal(learn().plan.residual->matrix));
}

TEST(SpinQuant, ModelsThatAreNotFiniteAreReported) {
  ParameterStore store = model();
  store.master(store.find("model.layers.0.mlp.up_proj.weight")).fill_(NAN);
  SpinQuantOptions options;
  options.steps = 1;
  EXPECT_THROW(learn_rotations(store, token_chain(), options), Error);
}

}  // namespace
}  // namespace osp
