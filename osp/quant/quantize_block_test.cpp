#include "osp/quant/quantize_block.h"

#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/base/test_folder.h"
#include "osp/model/transformer.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/hessian.h"
#include "osp/quant/pipeline.h"
#include "osp/quant/test_model.h"

namespace osp {
namespace {

at::Tensor windows() {
  at::Tensor ids = at::zeros({6, 24}, at::kLong);
  const RandomStream random(9, "windows");
  for (int64_t i = 0; i < ids.numel(); ++i) {
    ids.data_ptr<int64_t>()[i] = static_cast<int64_t>(random.below(static_cast<uint64_t>(i), 50));
  }
  return ids;
}

PipelineOptions gptq_options() {
  PipelineOptions options;
  options.weights.method = WeightMethod::gptq;
  options.weights.batch_tokens = 48;
  options.warn = [](const std::string& text) { ADD_FAILURE() << text; };
  return options;
}

// Equal codes but for those that two orders of summation decide differently.
void expect_same_codes(const QuantizedWeights& a, const QuantizedWeights& b) {
  ASSERT_EQ(a.size(), b.size());
  int64_t differing = 0, total = 0;
  for (const auto& [name, layer] : a) {
    differing += layer.codes.ne(b.at(name).codes).sum().item<int64_t>();
    total += layer.codes.numel();
  }
  EXPECT_LT(differing, total / 500);
}

TEST(QuantizeBlock, GroupsFollowTheForwardPass) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  std::vector<std::vector<std::string>> names;
  for (const LinearGroup& group : linear_groups(store, 1)) {
    names.emplace_back();
    for (const int64_t p : group.parameters) names.back().push_back(store.specs[p].name);
  }
  const std::string block = "model.layers.1.";
  const std::vector<std::vector<std::string>> wanted = {
      {block + "self_attn.q_proj.weight", block + "self_attn.k_proj.weight",
       block + "self_attn.v_proj.weight"},
      {block + "self_attn.o_proj.weight"},
      {block + "mlp.gate_proj.weight", block + "mlp.up_proj.weight"},
      {block + "mlp.down_proj.weight"}};
  EXPECT_EQ(names, wanted);
}

TEST(QuantizeBlock, OneStagedPassGivesTheCodesOfAPassPerGroup) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  PipelineOptions options = gptq_options();
  const PipelineResult staged = quantize_weights(store, windows(), options);
  options.weights.memory_limit_bytes = 1;  // no activations in memory: batches and a file
  const TestFolder folder;
  options.scratch_dir = folder.path();
  const PipelineResult batched = quantize_weights(store, windows(), options);
  expect_same_codes(staged.weights, batched.weights);
  EXPECT_EQ(staged.reports.size(), 14u);
}

TEST(QuantizeBlock, LaterGroupsAreCalibratedOnQuantizedOnes) {
  // The Hessian of the second block's q, k, v by hand: a forward pass with the codes of the first.
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  PipelineOptions options = gptq_options();
  const PipelineResult result = quantize_weights(store, windows(), options);
  class Codes : public Tap {
   public:
    Codes(const ParameterStore& s, const QuantizedWeights& w) : store(s), weights(w) {}
    bool wants(TapPoint point, int64_t layer) const override {
      return point == TapPoint::attention_input && layer == 1;
    }
    at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override { return seen = x; }
    bool wants_weights() const override { return true; }
    at::Tensor weight(int64_t p, const at::Tensor& w) override {
      const ParameterSpec& spec = store.specs[p];
      const bool first = spec.layer == 0 && spec.kind == ParameterKind::matrix;
      return first ? weights.at(spec.name).dequantized() : w;
    }
    const ParameterStore& store;
    const QuantizedWeights& weights;
    at::Tensor seen;
  } tap(store, result.weights);
  forward_hidden(store, windows(), watched_by(tap));
  const std::string name = "model.layers.1.self_attn.q_proj.weight";
  const at::Tensor w = store.master(store.find(name));
  const GptqResult wanted =
      gptq(w, hessian_reference(tap.seen, 6).to(at::kFloat), {}, {}, {}, name);
  expect_same_codes({{name, wanted.quantized}}, {{name, result.weights.at(name)}});
}

TEST(QuantizeBlock, GptqLeavesASmallerOutputErrorThanRounding) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  PipelineOptions options = gptq_options();
  const PipelineResult better = quantize_weights(store, windows(), options);
  options.weights.method = WeightMethod::rtn;
  const PipelineResult rounded = quantize_weights(store, windows(), options);
  for (size_t i = 0; i < better.reports.size(); ++i) {
    EXPECT_LT(better.reports[i].output_error, rounded.reports[i].output_error)
        << better.reports[i].name;
    EXPECT_LE(better.reports[i].sqnr_db, rounded.reports[i].sqnr_db + 0.01);
  }
}

TEST(QuantizeBlock, RoundingNeedsNoCalibrationAndIsThatOfFakeQuantization) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  PipelineOptions options;
  const PipelineResult result = quantize_weights(store, {}, options);
  FakeQuantTap tap(store, {4, 16, 16});
  for (const auto& [name, layer] : result.weights) {
    const int64_t p = store.find(name);
    EXPECT_TRUE(layer.dequantized().equal(tap.weight(p, store.compute(p)))) << name;
  }
  EXPECT_LT(result.reports[0].output_error, 0.0);  // not measured
}

TEST(QuantizeBlock, CorrectionsAndQuantizedInputsRunAndKeepTheCodesInRange) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  for (const Correction correction : {Correction::gptaq, Correction::qronos}) {
    PipelineOptions options = gptq_options();
    options.weights.gptq.correction = correction;
    options.weights.gptq.act_order = true;
    options.weights.calibration_bits = {16, 4, 4};
    const PipelineResult result = quantize_weights(store, windows(), options);
    for (const auto& [name, layer] : result.weights) check_quantized(layer, name);
  }
}

TEST(Pipeline, ResumesBehindTheLastFinishedBlockWithTheSameResult) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  const TestFolder folder;
  PipelineOptions options = gptq_options();
  options.fingerprint = {{"seed", 1}};
  const PipelineResult whole = quantize_weights(store, windows(), options);

  options.work_dir = folder / "work";
  class Stop : public std::exception {};
  options.progress = [](int64_t done, int64_t, double) {
    if (done == 1) throw Stop();
  };
  EXPECT_THROW(quantize_weights(store, windows(), options), Stop);
  options.progress = nullptr;
  options.resume = true;
  const PipelineResult resumed = quantize_weights(store, windows(), options);
  EXPECT_EQ(resumed.num_resumed, 1);
  ASSERT_EQ(resumed.reports.size(), whole.reports.size());
  for (size_t i = 0; i < whole.reports.size(); ++i) {
    EXPECT_EQ(resumed.reports[i].name, whole.reports[i].name);
    EXPECT_DOUBLE_EQ(resumed.reports[i].sqnr_db, whole.reports[i].sqnr_db);
  }
  for (const auto& [name, layer] : whole.weights) {
    EXPECT_TRUE(resumed.weights.at(name).codes.equal(layer.codes)) << name;
    EXPECT_TRUE(resumed.weights.at(name).scale.equal(layer.scale)) << name;
  }

  options.fingerprint = {{"seed", 2}};
  try {
    quantize_weights(store, windows(), options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::usage);
  }
  options.resume = false;
  EXPECT_EQ(quantize_weights(store, windows(), options).num_resumed, 0);
}

TEST(Pipeline, AGroupThatDoesNotDivideIsRefusedBeforeAnyWork) {
  PipelineOptions options;
  options.weights.grid.group = 48;  // of 32 and 64 columns
  try {
    quantize_weights(small_fused_model(/*kv_heads=*/1), {}, options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("q_proj.weight: groups of 48"), std::string::npos);
  }
}

TEST(Pipeline, KurtosisOfInputsSeesOutliers) {
  ParameterStore store = small_fused_model(/*kv_heads=*/1);
  const auto before = input_kurtosis(store, {}, windows());
  at::Tensor gain = store.master(store.find("model.layers.1.input_layernorm.weight"));
  gain.select(0, 5).fill_(100.0);
  const auto after = input_kurtosis(store, {}, windows());
  const std::string name = "model.layers.1.self_attn.k_proj.weight";
  EXPECT_LT(before.at(name), 5.0);
  EXPECT_GT(after.at(name), 15.0);  // one channel of 32: up to 28
  EXPECT_EQ(before.size(), 14u);
}

}  // namespace
}  // namespace osp
