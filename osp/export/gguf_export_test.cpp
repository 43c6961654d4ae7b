// The exported file read back by osp itself; tests/python/test_gguf_export.py reads it with the
// PyPI package and transformers.
#include "osp/export/gguf_export.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <filesystem>

#include <cmath>

#include "osp/base/error.h"
#include "osp/base/test_folder.h"
#include "osp/formats/half.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.layers = 2;
  config.width = 64;
  config.heads = 4;
  config.kv_heads = 2;
  config.inner = 96;
  config.vocabulary = 50;
  config.norm = "rms";
  config.embedding_projection = false;
  return resolved_config(config);
}

ParameterStore random_store(const ModelConfig& config) {
  ParameterStore store = make_parameters(config, {});
  initialize_parameters(store, 7);
  return store;
}

// Symmetric 4-bit codes for every matrix of the blocks; the store gets their weights.
QuantizedWeights random_codes(ParameterStore& store, int64_t group) {
  QuantizedWeights weights;
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    if (spec.kind != ParameterKind::matrix) continue;
    QuantizedLinear layer;
    layer.group = group;
    const int64_t groups = group > 0 ? spec.shape[1] / group : 1;
    layer.codes = at::randint(-8, 8, spec.shape, at::kChar);
    // fp16 numbers, so that nothing is lost.
    layer.scale = (at::rand({spec.shape[0], groups}) * 0.01 + 0.001).to(at::kHalf).to(at::kFloat);
    store.master(static_cast<int64_t>(i)).copy_(layer.dequantized());
    weights.emplace(spec.name, layer);
  }
  return weights;
}

std::string refusal(const ParameterStore& store, const GgufExportOptions& options) {
  try {
    check_gguf_export(store, options);
    return "accepted";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(GgufExport, HalvesComeBackAsRoundedWeights) {
  const ParameterStore store = random_store(small_config());
  const TestFolder folder;
  export_gguf(store, folder / "m.gguf", {.where = "model"});
  const ParameterStore back = load_model_dir(folder / "m.gguf");
  EXPECT_EQ(back.config.kv_heads, 2);
  EXPECT_FALSE(back.config.tied);
  ASSERT_EQ(back.specs.size(), store.specs.size());
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const at::Tensor weight = store.master(static_cast<int64_t>(i));
    const at::Tensor expected = weight.dim() > 1 ? weight.to(at::kHalf).to(at::kFloat) : weight;
    EXPECT_TRUE(back.master(static_cast<int64_t>(i)).equal(expected)) << store.specs[i].name;
  }
}

TEST(GgufExport, CodesWithHalfScalesComeBackExactly) {
  for (const int64_t group : {0, 32}) {
    ParameterStore store = random_store(small_config());
    const QuantizedWeights weights = random_codes(store, group);
    const TestFolder folder;
    const GgufExportReport report =
        export_gguf(store, folder / "m.gguf",
                    {.type = GgufTensorType::q4_0, .quantized = &weights, .where = "model"});
    EXPECT_EQ(report.scale_rounding, 0.0);
    const ParameterStore back = load_model_dir(folder / "m.gguf");
    for (size_t i = 0; i < store.specs.size(); ++i) {
      if (store.specs[i].kind != ParameterKind::matrix) continue;
      const auto parameter = static_cast<int64_t>(i);
      EXPECT_TRUE(back.master(parameter).equal(store.master(parameter))) << store.specs[i].name;
    }
  }
}

TEST(GgufExport, RowsThatAreNoWholeBlocksStayHalves) {
  ModelConfig config = small_config();
  config.inner = 80;
  const ParameterStore store = random_store(config);
  const TestFolder folder;
  const GgufExportReport report =
      export_gguf(store, folder / "m.gguf", {.type = GgufTensorType::q8_0, .where = "model"});
  EXPECT_EQ(report.kept_f16, (std::vector<std::string>{"model.layers.0.mlp.down_proj.weight",
                                                       "model.layers.1.mlp.down_proj.weight"}));
}

TEST(GgufExport, LiveRowsThatBecomeZerosAreNamed) {
  ParameterStore store = random_store(small_config());
  const auto layer = store.find("model.layers.1.mlp.down_proj.weight");
  store.master(layer)[3].fill_(1e-9);
  store.master(layer)[5].fill_(0.0);
  const TestFolder folder;
  for (const GgufTensorType type : {GgufTensorType::f16, GgufTensorType::q8_0}) {
    const GgufExportReport report =
        export_gguf(store, folder / "m.gguf", {.type = type, .where = "model"});
    ASSERT_EQ(report.lost_rows.size(), 1u);
    EXPECT_NE(report.lost_rows[0].find("model.layers.1.mlp.down_proj.weight: 1 of "),
              std::string::npos);
    EXPECT_NE(report.lost_rows[0].find("the first is row 3"), std::string::npos);
    std::filesystem::remove(folder / "m.gguf");
  }
  // The largest numbers that are lost, and the smallest that are not.
  for (const auto& [value, lost] : {std::pair{0x1p-25, true}, {0x1.01p-25, false}}) {
    store.master(layer)[3].fill_(value);
    const GgufExportReport report = export_gguf(store, folder / "m.gguf", {.where = "model"});
    EXPECT_EQ(report.lost_rows.empty(), !lost);
    EXPECT_EQ(half_to_float(float_to_half(static_cast<float>(value))) == 0.0f, lost);
    std::filesystem::remove(folder / "m.gguf");
  }
}

TEST(GgufExport, WhatAFileCannotCarryIsRefusedWithTheReason) {
  const auto expect = [](const std::string& message, const std::string& part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  ModelConfig config = small_config();
  config.norm = "single-scale";
  expect(
      refusal(random_store(config), {.where = "model"}),
      "glm4, seed_oss, arcee, ernie4_5, qwen3moe, olmoe, gpt-oss, and this model has norms of the "
      "kind single-scale");
  config = small_config();
  config.qkv_bias = true;
  expect(refusal(random_store(config), {.where = "model"}),
         "has biases on a part of its projections");
  config = small_config();
  config.window = 16;
  expect(refusal(random_store(config), {.where = "model"}), "has a sliding window of 16");

  ParameterStore store = random_store(small_config());
  expect(refusal(store, {.online = {.down_hadamard = true}, .where = "model"}),
         "Hadamard transform before each down projection");
  QuantizedWeights weights = random_codes(store, 16);
  const GgufExportOptions q4{.type = GgufTensorType::q4_0, .quantized = &weights, .where = "model"};
  expect(refusal(store, q4), "has groups of 16, and Q4_0 holds integers");
  GgufExportOptions again = q4;
  again.exact = false;
  EXPECT_EQ(refusal(store, again), "accepted");
  weights = random_codes(store, 0);
  weights.begin()->second.bits = 5;
  expect(refusal(store, q4), "has 5 bits");
  weights.begin()->second.bits = 4;
  weights.begin()->second.scale.fill_(1e-9);
  const TestFolder folder;
  EXPECT_THROW(export_gguf(store, folder / "m.gguf", q4), Error);
  EXPECT_FALSE(path_exists(folder / "m.gguf"));

  store.master(0).fill_(70000.0);
  expect(refusal(store, {.where = "model"}), "model.embed_tokens.weight holds 70000, which fp16");
  store.master(0).fill_(std::nanf(""));
  expect(refusal(store, {.where = "model"}), "expected finite weights");
}

}  // namespace
}  // namespace osp
