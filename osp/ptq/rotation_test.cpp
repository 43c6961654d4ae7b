#include "osp/ptq/rotation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/block_diag.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/base/test_error.h"
#include "osp/model/fuse.h"
#include "osp/ptq/ffn_hadamard.h"
#include "osp/ptq/quarot.h"
#include "osp/ptq/rotation_check.h"
#include "osp/ptq/rotation_family.h"
#include "osp/ptq/rotation_store.h"
#include "osp/ptq/test_invariance.h"

namespace osp {
namespace {

constexpr double kExact = 1e-12;  // of the largest logit, in fp64: what DESIGN asks

struct Shape {
  int64_t width = 48, heads = 4, kv_heads = 2, head_size = 12, inner = 80;
  bool tied = false, qk_norm = false;
};

// Random weights in fp64; norm weights differ by channel, biases are not zero.
ParameterStore wide_model_of(const ModelConfig& config) {
  ParameterStore store = make_parameters(resolved_config(config), {});
  initialize_parameters(store, 7);
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (store.master(static_cast<int64_t>(i)).dim() != 1) continue;
    at::Tensor vector = store.master(static_cast<int64_t>(i));
    const double mean = store.specs[i].kind == ParameterKind::gain ? 1.0 : 0.0;
    RandomStream(8, store.specs[i].name)
        .fill_normal({vector.data_ptr<float>(), static_cast<size_t>(vector.numel())}, mean, 0.5);
  }
  return copy_in_fp64(store);
}

ModelConfig config_of(const Shape& shape) {
  ModelConfig config;
  config.layers = 3;
  config.width = shape.width;
  config.heads = shape.heads;
  config.kv_heads = shape.kv_heads;
  config.head_size = shape.head_size;
  config.inner = shape.inner;
  config.vocabulary = 61;
  config.context = 32;
  config.norm = "rms";
  config.tied = shape.tied;
  config.qk_norm = shape.qk_norm;
  config.embedding_projection = false;
  config.init_std = 0.2;  // large enough that attention is not uniform
  return config;
}

ParameterStore wide_model(const Shape& shape = {}) { return wide_model_of(config_of(shape)); }

at::Tensor tokens() { return at::arange(64, at::kLong).mul(7).remainder(61).view({2, 32}); }

at::Tensor random_orthogonal(int64_t size) {
  at::Tensor x = at::zeros({size, size}, at::kFloat);
  RandomStream(9, "orthogonal")
      .fill_normal({x.data_ptr<float>(), static_cast<size_t>(x.numel())}, 0.0, 1.0);
  return std::get<0>(at::linalg_qr(x.to(at::kDouble)));
}

double change_by(const ParameterStore& before, const RotationPlan& plan) {
  ParameterStore after = before;
  for (Bank& bank : after.banks) bank.compute = bank.master = bank.master.clone();
  rotate_model(after, plan);
  return InvarianceCheck(before, tokens()).change(after, plan.online());
}

double weight_change(const ParameterStore& a, const ParameterStore& b, const std::string& name) {
  return a.master(a.find(name)).sub(b.master(b.find(name))).abs().max().item<double>();
}

TEST(Rotation, RandomHadamardIsOrthogonalSeededAndFlat) {
  for (const int64_t size : {12, 48, 64}) {
    const Rotation q = random_hadamard(size, 1, "R1");
    EXPECT_LT(orthogonality_error(q.dense()), 1e-14) << size;
    EXPECT_LT(
        q.dense().abs().sub(1.0 / std::sqrt(static_cast<double>(size))).abs().max().item<double>(),
        1e-15);
    EXPECT_TRUE(q.signs.equal(random_hadamard(size, 1, "R1").signs));
    EXPECT_FALSE(q.signs.equal(random_hadamard(size, 2, "R1").signs));
    EXPECT_FALSE(q.signs.equal(random_hadamard(size, 1, "R2").signs));
  }
}

TEST(Rotation, BlocksStayApart) {
  for (const bool keeps_mean : {false, true}) {
    const auto random = keeps_mean ? random_mean_keeping : random_hadamard;
    const at::Tensor q = random(48, 7, "R1", 12).dense();
    EXPECT_LT(orthogonality_error(q), 1e-14);
    const at::Tensor inside = at::block_diag(
        {at::ones({12, 12}), at::ones({12, 12}), at::ones({12, 12}), at::ones({12, 12})});
    EXPECT_TRUE(q.ne(0).to(at::kFloat).mul(1 - inside).eq(0).all().item<bool>());
    EXPECT_FALSE(q.narrow(0, 0, 12).narrow(1, 0, 12).equal(
        q.narrow(0, 12, 12).narrow(1, 12, 12)));  // signs of its own
    if (keeps_mean) {
      EXPECT_LT(q.sum(0).sub(1.0).abs().max().item<double>(), 1e-14);
    }
  }
  expect_error(ErrorCode::usage, {"R1", "48", "blocks of 36"},
               [] { random_hadamard(48, 1, "R1", 36); });
  const ParameterStore store = wide_model();
  EXPECT_LT(change_by(store, quarot_plan(store.config, {.seed = 5, .residual_block = 12})), kExact);
}

TEST(Rotation, MeanKeepingRotationIsOrthogonalAndKeepsTheMean) {
  for (const int64_t size : {12, 36, 48, 64, 156}) {
    const at::Tensor q = random_mean_keeping(size, 1, "R1").dense();
    EXPECT_LT(orthogonality_error(q), 1e-14) << size;
    EXPECT_LT(q.sum(0).sub(1.0).abs().max().item<double>(), 1e-13) << size;
    EXPECT_LT(q.abs().max().item<double>(), 0.999) << size;
  }
}

TEST(Rotation, EachTransformAloneLeavesTheLogitsInFp64) {
  const ParameterStore store = wide_model();
  EXPECT_LT(change_by(store, {.fold_norms = true}), kExact);
  RotationPlan residual{.fold_norms = true};
  residual.residual = random_hadamard(48, 3, "R1");
  EXPECT_LT(change_by(store, residual), kExact);
  RotationPlan values;
  for (int layer = 0; layer < 3; ++layer) values.values.push_back(random_hadamard(12, layer, "R2"));
  EXPECT_LT(change_by(store, values), kExact);
  EXPECT_LT(change_by(store, ffn_hadamard_plan(store.config)), kExact);
  EXPECT_LT(change_by(store, ffn_hadamard_plan(store.config, 20)), kExact);
}

TEST(Rotation, QuaRotLeavesTheLogitsOfEveryShapeInFp64) {
  for (const Shape& shape :
       {Shape{}, Shape{.tied = true}, Shape{.qk_norm = true},
        Shape{.width = 64, .heads = 4, .kv_heads = 4, .head_size = 16, .inner = 172},
        Shape{.width = 40, .heads = 2, .kv_heads = 1, .head_size = 20, .inner = 96}}) {
    const ParameterStore store = wide_model(shape);
    EXPECT_LT(change_by(store, quarot_plan(store.config, {.seed = 5})), kExact) << shape.width;
  }
}

// Families whose every rotation is exact, by what makes them differ from a Llama.
std::vector<std::pair<const char*, ModelConfig>> exact_families() {
  ModelConfig qwen2 = config_of({});
  qwen2.qkv_bias = true;
  ModelConfig pythia = config_of({});
  pythia.norm = "layer";
  pythia.parallel = true;
  pythia.gated = false;
  pythia.activation = "gelu";
  pythia.qkv_bias = pythia.output_bias = pythia.mlp_bias = true;
  pythia.rotary_size = 4;
  ModelConfig stablelm = config_of({});
  stablelm.norm = "layer";
  stablelm.parallel = stablelm.shared_norm = true;
  ModelConfig opt = config_of({.tied = true});
  opt.norm = "layer";
  opt.gated = false;
  opt.activation = "relu";
  opt.qkv_bias = opt.output_bias = opt.mlp_bias = true;
  opt.learned_positions = true;
  opt.position_offset = 2;
  ModelConfig experts = config_of({.qk_norm = true});
  experts.experts = 3;
  experts.experts_per_token = 2;
  experts.expert_inner = 24;
  experts.dense_layers = {0};
  ModelConfig olmo2 = config_of({.qk_norm = true});  // without R1
  olmo2.norm_after = true;
  ModelConfig gemma = config_of({.tied = true});
  gemma.norm_around = true;
  ModelConfig no_norms = config_of({.qk_norm = true});  // a fused Outlier Protected model
  no_norms.norm = "none";
  return {{"Qwen2", qwen2},  {"Pythia", pythia},     {"StableLM", stablelm},
          {"OPT", opt},      {"Qwen3-MoE", experts}, {"no norms", no_norms},
          {"OLMo 2", olmo2}, {"Gemma 2", gemma}};
}

TEST(Rotation, QuaRotLeavesTheLogitsOfOtherFamiliesInFp64) {
  for (const auto& [name, config] : exact_families()) {
    const ParameterStore store = wide_model_of(config);
    EXPECT_LT(change_by(store, quarot_plan(store.config, {.seed = 5})), kExact) << name;
  }
}

TEST(Rotation, QuaRotTurnsValuesAndDownAloneWhereNormsFollowTheBranches) {
  for (const bool around : {false, true}) {
    ModelConfig config = config_of({});
    (around ? config.norm_around : config.norm_after) = true;
    const ParameterStore store = wide_model_of(config);
    const RotationPlan plan = quarot_plan(store.config, {.seed = 5});
    EXPECT_FALSE(plan.residual || plan.fold_norms);
    EXPECT_TRUE(plan.down);
    ParameterStore after = copy_in_fp64(store);
    rotate_model(after, plan);
    const std::string block = "model.layers.1.";
    for (const char* moved : {"self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"}) {
      EXPECT_GT(weight_change(store, after, block + moved + ".weight"), 0.05) << moved;
    }
    for (const char* kept : {"self_attn.q_proj", "mlp.up_proj", "post_feedforward_layernorm"}) {
      EXPECT_EQ(weight_change(store, after, block + kept + ".weight"), 0.0) << kept;
    }
    expect_error(ErrorCode::usage, {"--rotation-block", "behind its branches"},
                 [&] { quarot_plan(store.config, {.residual_block = 12}); });
  }
}

TEST(Rotation, RotationsThatAreNotExactAreRefusedByName) {
  const auto message = [](const ParameterStore& store, const RotationPlan& plan) {
    try {
      check_rotations_exact(store.config, plan);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("not refused");
  };
  ModelConfig olmo2 = config_of({});
  olmo2.norm_after = true;
  const ParameterStore after = wide_model_of(olmo2);
  EXPECT_TRUE(message(after, {.fold_norms = true}).starts_with("R1")) << "OLMo-2";
  EXPECT_LT(change_by(after, ffn_hadamard_plan(after.config)), kExact);
  ModelConfig olmo = config_of({});
  olmo.clip_qkv = 0.5;
  const ParameterStore clipped = wide_model_of(olmo);
  EXPECT_TRUE(message(clipped, quarot_plan(clipped.config)).starts_with("R2")) << "OLMo";
  RotationPlan residual = quarot_plan(clipped.config);
  residual.values.clear();
  EXPECT_LT(change_by(clipped, residual), kExact);
  ModelConfig layer_norm = config_of({});
  layer_norm.norm = "layer";
  const ParameterStore mean = wide_model_of(layer_norm);
  RotationPlan learned{.fold_norms = true};
  learned.residual = random_hadamard(48, 1, "R1");
  EXPECT_NE(message(mean, learned).find("mean"), std::string::npos);
}

TEST(Rotation, DenseRotationsLeaveTheLogitsInFp64) {
  const ParameterStore store = wide_model();
  RotationPlan plan{.fold_norms = true};
  plan.residual = dense_rotation(random_orthogonal(48));
  plan.values.assign(3, dense_rotation(random_orthogonal(12)));
  EXPECT_LT(change_by(store, plan), kExact);
}

TEST(Rotation, WeightsDoMoveWhereTheLogitsDoNot) {
  const ParameterStore store = wide_model();
  ParameterStore after = copy_in_fp64(store);
  rotate_model(after, quarot_plan(store.config));
  for (const char* name :
       {"model.embed_tokens.weight", "lm_head.weight", "model.layers.1.self_attn.q_proj.weight",
        "model.layers.1.self_attn.v_proj.weight", "model.layers.1.self_attn.o_proj.weight",
        "model.layers.1.mlp.down_proj.weight"}) {
    EXPECT_GT(weight_change(store, after, name), 0.05) << name;
  }
  EXPECT_TRUE(after.master(after.find("model.norm.weight")).eq(1.0).all().item<bool>());
}

TEST(Rotation, WrongOnlineTransformIsNoticed) {
  const ParameterStore store = wide_model();
  ParameterStore after = copy_in_fp64(store);
  rotate_model(after, ffn_hadamard_plan(store.config));
  const InvarianceCheck check(store, tokens());
  EXPECT_GT(check.change(after, {}), 1e-3);  // nobody turns the input of the down projection
  EXPECT_GT(check.change(after, {.down_hadamard = true, .down_block = 20}), 1e-3);
}

TEST(Rotation, RoundsOnce) {
  ParameterStore store = copy_in_fp32(wide_model({.tied = true}));
  const ParameterStore before = copy_in_fp32(copy_in_fp64(store));
  const RotationPlan plan = quarot_plan(store.config, {.seed = 2, .down_block = 40});
  EXPECT_TRUE(plan.online().down_hadamard);
  EXPECT_EQ(plan.online().down_block, 40);
  rotate_model(store, plan);
  EXPECT_FALSE(store.config.tied);
  // One rounding of each weight in fp32 (6e-8), three blocks deep.
  EXPECT_LT(InvarianceCheck(before, tokens()).change(store, plan.online()), 2e-5);
}

TEST(Rotation, PartByPartGivesTheModelRotatedAtOnce) {
  const ParameterStore store = copy_in_fp32(wide_model({.tied = true}));
  const RotationPlan plan = quarot_plan(store.config, {.seed = 4});
  ParameterStore together = copy_in_fp32(copy_in_fp64(store));
  rotate_model(together, plan);
  const auto source = source_of(store);
  for (int64_t part = -1; part < store.config.layers; ++part) {
    ParameterStore alone = source->read(part);
    rotate_model(alone, plan);
    EXPECT_FALSE(alone.specs.empty());
    EXPECT_EQ(alone.config, together.config);
    for (size_t i = 0; i < alone.specs.size(); ++i) {
      const int64_t whole = together.find(alone.specs[i].name);
      EXPECT_TRUE(alone.master(static_cast<int64_t>(i)).equal(together.master(whole)))
          << alone.specs[i].name;
    }
  }
}

TEST(RotationCheck, ExactPlansPassAndAMatrixThatIsNotOrthogonalIsNoticed) {
  const ParameterStore store = copy_in_fp32(wide_model({.tied = true}));
  const auto source = source_of(store);
  RotationPlan plan = quarot_plan(store.config, {.seed = 2, .down_block = 40});
  EXPECT_LT(check_rotations(*source, plan, tokens()), kInvarianceTolerance);
  // Off by 1e-8: dense_rotation would let it pass, the logits do not.
  plan.residual = Rotation{.matrix = plan.residual->dense()};
  plan.residual->matrix[0].mul_(1.0 + 1e-8);
  EXPECT_THROW(check_rotations(*source, plan, tokens()), std::logic_error);
}

TEST(Rotation, SizesWithoutAHadamardMatrixAreRefusedByName) {
  ModelConfig config = wide_model().config;
  config.width = 46;
  try {
    quarot_plan(config);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_NE(std::string(error.what()).find("the width is 46"), std::string::npos) << error.what();
  }
  config = wide_model().config;
  config.inner = 92;
  EXPECT_THROW(ffn_hadamard_plan(config), Error);
  EXPECT_NO_THROW(ffn_hadamard_plan(config, 4));
}

TEST(RotationCheck, NotFiniteLogitsAreReportedAsDamage) {
  ParameterStore store = copy_in_fp32(wide_model());
  store.master(store.find("model.layers.1.mlp.up_proj.weight")).view(-1)[5] = NAN;
  EXPECT_THROW(check_rotations(*source_of(store), quarot_plan(store.config), tokens()), Error);
}

}  // namespace
}  // namespace osp
