#include "osp/ptq/quantize_block.h"

#include <ATen/ops/randint.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/base/test_folder.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"
#include "osp/ptq/block_by_block.h"
#include "osp/ptq/hessian.h"
#include "osp/ptq/quarot.h"
#include "osp/ptq/rotation_transform.h"
#include "osp/quant/fake_quant.h"

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

BlockByBlockOptions gptq_options() {
  BlockByBlockOptions options;
  options.weights.rounding = &kGptq;
  options.batch_tokens = 48;
  options.warn = [](const std::string& text) { ADD_FAILURE() << text; };
  return options;
}

struct Outcome {
  BlockByBlockResult result;
  QuantizedWeights weights;
};

// Block by block on a store; parts go to `path`.
Outcome run_in(const ParameterStore& store, const at::Tensor& windows_NT,
               const BlockByBlockOptions& options, const std::string& path,
               const Json& fingerprint = {}, bool resume = false) {
  const PartFolder parts(path, fingerprint, resume);
  Outcome outcome{quantize_block_by_block(*source_of(store), windows_NT, options, parts), {}};
  for (int64_t layer = 0; layer < store.config.layers; ++layer) {
    ParameterStore block = source_of(store)->read(layer);
    std::set<std::string> taken;
    outcome.weights.merge(read_part(parts.tensors(layer).tensors(), block, options.weights.grid,
                                    parts.tensors_path(layer), taken));
  }
  return outcome;
}

Outcome run(const ParameterStore& store, const at::Tensor& windows_NT,
            const BlockByBlockOptions& options) {
  const TestFolder folder;
  return run_in(store, windows_NT, options, folder / "parts");
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

TEST(QuantizeBlock, DampingThatHadToBeRaisedIsReportedAndSaid) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  BlockByBlockOptions options = gptq_options();
  options.weights.gptq.damping = 0;  // and fewer tokens than columns: no inverse exists
  std::vector<std::string> warnings;
  options.warn = [&](const std::string& text) { warnings.push_back(text); };
  const Outcome outcome = run(store, windows().narrow(0, 0, 1).narrow(1, 0, 8), options);
  int64_t raised = 0;
  for (const LinearReport& report : outcome.result.reports) {
    EXPECT_EQ(report.num_attempts > 1, report.damping > 0) << report.name;
    raised += report.num_attempts > 1;
  }
  EXPECT_GT(raised, 0);
  int64_t said = 0;
  for (const std::string& text : warnings) {
    said += text.find("damping was raised to 1e-05") != std::string::npos;
  }
  EXPECT_EQ(said, raised);
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

TEST(QuantizeBlock, ActivationsOnDiskAndSmallerBatchesGiveTheSameCodes) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  BlockByBlockOptions options = gptq_options();
  options.batch_tokens = 1 << 20;
  const Outcome whole = run(store, windows(), options);
  options.batch_tokens = 48;
  const TestFolder folder;
  options.space = {.memory_bytes = 1, .folder = folder.path()};
  const Outcome batched = run(store, windows(), options);
  expect_same_codes(whole.weights, batched.weights);
  EXPECT_EQ(whole.result.reports.size(), 14u);
}

TEST(CalibrationStream, PiecesOfEveryKindOfBlockGiveTheWholeBlock) {
  for (const char* kind :
       {"llama", "parallel", "shared", "after", "plain", "no norms", "experts"}) {
    ModelConfig config = small_fused_model(/*kv_heads=*/1).config;
    if (kind == std::string("parallel") || kind == std::string("shared")) config.parallel = true;
    if (kind == std::string("shared")) config.shared_norm = true;
    if (kind == std::string("after")) config.norm_after = true;
    if (kind == std::string("plain")) config.gated = false;
    if (kind == std::string("no norms")) config.norm = "none";
    if (kind == std::string("experts")) config = small_expert_model(/*dense_first=*/true).config;
    ParameterStore store = make_parameters(config, {});
    initialize_parameters(store, 5);
    ActivationSpace space;
    CalibrationStream whole(store, windows(), false, 48, space);
    CalibrationStream pieces(store, windows(), true, 48, space);
    std::map<TapPoint, std::vector<at::Tensor>> seen;
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      seen.clear();
      whole.advance(store, layer, {}, [&](TapPoint point, const at::Tensor& x, int64_t) {
        seen[point].push_back(x.clone());  // may be the stream itself
      });
      for (const LinearGroup& group : linear_groups(store, layer)) {
        size_t batch = 0;
        pieces.for_each_batch([&](int64_t first, int64_t count) {
          const at::Tensor x = pieces.input(store, layer, {}, group.input, first, count);
          // fp32: the sum before a norm may be rounded once more than in the fused operator.
          EXPECT_LT(x.sub(seen[group.input][batch++]).abs().max().item<double>(), 1e-5)
              << kind << " " << layer;
          if (group.input != TapPoint::mlp_product || !config.routes(layer)) return;
          EXPECT_TRUE(pieces.routing(store, layer, {}, first, count).defined());
        });
      }
      pieces.for_each_batch(
          [&](int64_t first, int64_t count) { pieces.finish(store, layer, {}, first, count); });
    }
    EXPECT_EQ(seen.size(), 4u) << kind;
  }
}

TEST(QuantizeBlock, LaterGroupsAreCalibratedOnQuantizedOnes) {
  // The Hessian of the second block's q, k, v by hand: a forward pass with the codes of the first.
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  BlockByBlockOptions options = gptq_options();
  const Outcome result = run(store, windows(), options);
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
  const RoundedLayer wanted =
      gptq(w, hessian_reference(tap.seen, 6).to(at::kFloat), {}, {}, {}, name);
  expect_same_codes({{name, wanted.quantized}}, {{name, result.weights.at(name)}});
}

TEST(QuantizeBlock, GptqLeavesASmallerOutputErrorThanRounding) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  BlockByBlockOptions options = gptq_options();
  const BlockByBlockResult better = run(store, windows(), options).result;
  options.weights.rounding = &kRtn;
  const BlockByBlockResult rounded = run(store, windows(), options).result;
  for (size_t i = 0; i < better.reports.size(); ++i) {
    EXPECT_LT(better.reports[i].output_error, rounded.reports[i].output_error)
        << better.reports[i].name;
    EXPECT_LE(better.reports[i].sqnr_db, rounded.reports[i].sqnr_db + 0.01);
  }
}

TEST(QuantizeBlock, RoundingNeedsNoCalibrationAndIsThatOfFakeQuantization) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  BlockByBlockOptions options;
  const Outcome result = run(store, {}, options);
  FakeQuantTap tap(store, {4, 16, 16});
  for (const auto& [name, layer] : result.weights) {
    const int64_t p = store.find(name);
    EXPECT_TRUE(layer.dequantized().equal(tap.weight(p, store.compute(p)))) << name;
  }
  EXPECT_LT(result.result.reports[0].output_error, 0.0);  // not measured
}

TEST(QuantizeBlock, CorrectionsAndQuantizedInputsRunAndKeepTheCodesInRange) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  for (const RoundingRow* rounding : {&kGptaq, &kQronos}) {
    BlockByBlockOptions options = gptq_options();
    options.weights.rounding = rounding;
    options.weights.gptq.act_order = true;
    options.weights.calibration_bits = {16, 4, 4};
    const Outcome result = run(store, windows(), options);
    for (const auto& [name, layer] : result.weights) check_quantized(layer, name);
  }
}

TEST(BlockByBlock, ResumesBehindTheLastFinishedBlockWithTheSameResult) {
  const TestFolder folder;
  for (const auto& [store, rounding] :
       {std::pair(small_fused_model(/*kv_heads=*/1), &kGptq),
        std::pair(small_fused_model(/*kv_heads=*/1), &kGptaq),
        std::pair(small_expert_model(/*dense_first=*/true), &kGptq)}) {
    BlockByBlockOptions options = gptq_options();
    options.weights.rounding = rounding;
    const Outcome whole = run(store, windows(), options);

    class Stop : public std::exception {};
    options.progress = [](int64_t done, int64_t, double) {
      if (done == 10) throw Stop();  // in the second block
    };
    const std::string work = folder / "work";
    EXPECT_THROW(run_in(store, windows(), options, work, {{"seed", 1}}), Stop);
    options.progress = nullptr;
    const Outcome resumed = run_in(store, windows(), options, work, {{"seed", 1}}, true);
    EXPECT_EQ(resumed.result.num_resumed, 1);
    ASSERT_EQ(resumed.result.reports.size(), whole.result.reports.size());
    for (size_t i = 0; i < whole.result.reports.size(); ++i) {
      EXPECT_EQ(resumed.result.reports[i].name, whole.result.reports[i].name);
      EXPECT_DOUBLE_EQ(resumed.result.reports[i].sqnr_db, whole.result.reports[i].sqnr_db);
      EXPECT_EQ(resumed.result.reports[i].expert_tokens, whole.result.reports[i].expert_tokens);
    }
    for (const auto& [name, layer] : whole.weights) {
      EXPECT_TRUE(resumed.weights.at(name).codes.equal(layer.codes)) << name;
      EXPECT_TRUE(resumed.weights.at(name).scale.equal(layer.scale)) << name;
    }
    try {
      run_in(store, windows(), options, work, {{"seed", 2}}, true);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::usage);
    }
    EXPECT_EQ(run_in(store, windows(), options, work, {{"seed", 2}}).result.num_resumed, 0);
  }
}

TEST(BlockByBlock, AGroupThatDoesNotDivideIsRefusedBeforeAnyWork) {
  BlockByBlockOptions options;
  options.weights.grid.group = 48;  // of 32 and 64 columns
  try {
    run(small_fused_model(/*kv_heads=*/1), {}, options);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("q_proj.weight: groups of 48"), std::string::npos);
  }
}

TEST(BlockByBlock, KurtosisOfInputsSeesOutliersBeforeAndAfterARotation) {
  ParameterStore store = small_fused_model(/*kv_heads=*/1);
  store.master(store.find("model.layers.1.input_layernorm.weight")).select(0, 5).fill_(100.0);
  BlockByBlockOptions options;
  options.transform = rotation_transform(quarot_plan(store.config));
  const BlockByBlockResult result = run(store, windows(), options).result;
  for (const LinearReport& report : result.reports) {
    if (report.name != "model.layers.1.self_attn.k_proj.weight") continue;
    EXPECT_GT(report.kurtosis_before, 15.0);  // one channel of 32: up to 28
    EXPECT_LT(report.kurtosis_after, 5.0);
  }
}

TEST(BlockByBlock, StaticScalesCoverTheirInputs) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  BlockByBlockOptions options;
  options.activation_bits = 4;
  options.activations = ActivationMode::per_tensor;
  EXPECT_EQ(run(store, windows(), options).result.scales.size(), 8u);  // four points, two blocks
  options.activations = ActivationMode::after_norm;
  EXPECT_EQ(run(store, {}, options).result.scales.size(), 4u);
}

}  // namespace
}  // namespace osp
