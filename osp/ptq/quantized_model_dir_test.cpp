// Loading by transformers is in tests/python/test_quantize.py.
#include "osp/ptq/quantized_model_dir.h"

#include <ATen/ops/arange.h>
#include <gtest/gtest.h>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/test_folder.h"
#include "osp/model/hf_config.h"
#include "osp/model/test_model.h"
#include "osp/model/transformer.h"
#include "osp/ptq/quantize_block.h"
#include "osp/ptq/quantized_model_tensors.h"
#include "osp/ptq/test_model.h"

namespace osp {
namespace {

QuantizedWeights quantized(const ParameterStore& store, const WeightGrid& grid) {
  QuantizedWeights weights;
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (store.specs[i].kind != ParameterKind::matrix) continue;
    weights[store.specs[i].name] =
        round_to_nearest(store.master(static_cast<int64_t>(i)), grid, store.specs[i].name);
  }
  return weights;
}

QuantizedModelInfo info_of(const WeightGrid& grid) {
  const NumberFormat weights = grid.is_integer() ? NumberFormat(grid.bits) : grid.kind;
  return {.bits = {weights, 4, 4}, .grid = grid, .method = "rtn", .profile = "best"};
}

void save(const ParameterStore& store, const QuantizedWeights& weights, const TestFolder& folder,
          const std::string& out) {
  save_quantized_model_dir(parts_of(store, weights, info_of({}), folder / "parts"), store.config,
                           info_of({}), {}, folder.path(), out);
}

std::string message_of(const std::string& path) {
  try {
    load_quantized_model_dir(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(QuantizedModelDir, GivesBackCodesScalesAndSettings) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  for (const WeightGrid& grid :
       {WeightGrid{}, WeightGrid{.bits = 3, .group = 32},
        WeightGrid{.bits = 4, .group = 32, .symmetric = false, .fp16_scales = true},
        WeightGrid{.bits = 8, .symmetric = false}, float_weight_grid(NumberKind::mxfp4),
        float_weight_grid(NumberKind::nvfp4), float_weight_grid(NumberKind::fp8)}) {
    const TestFolder folder;
    const QuantizedWeights weights = quantized(store, grid);
    QuantizedModelInfo info = info_of(grid);
    info.online = {.query_key_hadamard = false, .down_hadamard = true, .down_block = 16};
    info.scales[{TapPoint::mlp_input, 1}] = {0.25, 8.0};
    info.clips = {0.9, 0.95};
    info.groups = {.inputs = 16, .down = 32};
    save_quantized_model_dir(parts_of(store, weights, info, folder / "parts"), store.config, info,
                             {{"note", 1}}, folder.path(), folder / "out");
    EXPECT_TRUE(is_quantized_model_dir(folder / "out"));
    const QuantizedModel model = load_quantized_model_dir(folder / "out");
    ASSERT_EQ(model.weights.size(), weights.size());
    for (const auto& [name, layer] : weights) {
      const QuantizedLinear& read = model.weights.at(name);
      EXPECT_TRUE(read.codes.equal(layer.codes)) << name;
      EXPECT_TRUE(read.scale.equal(layer.scale)) << name;
      EXPECT_EQ(read.kind, layer.kind);
      EXPECT_EQ(read.symmetric(), layer.symmetric());
      EXPECT_TRUE(!layer.global.defined() || read.global.equal(layer.global)) << name;
      EXPECT_TRUE(layer.symmetric() || read.zero.equal(layer.zero)) << name;
      EXPECT_TRUE(model.store.master(model.store.find(name)).equal(layer.dequantized()));
    }
    EXPECT_EQ(model.info.bits, info.bits);
    EXPECT_EQ(model.info.online, info.online);
    EXPECT_EQ(model.info.scales, info.scales);
    EXPECT_EQ(model.info.clips, info.clips);
    EXPECT_EQ(model.info.groups, info.groups);
    EXPECT_EQ(model.info.method, "rtn");
    const int64_t embedding = store.find("model.embed_tokens.weight");
    EXPECT_TRUE(model.store.master(embedding).equal(store.master(embedding)));
  }
}

// Integer and bf16 tables as they are written, and as they come back.
TEST(QuantizedModelDir, TablesOfEveryTypeComeBack) {
  for (const char* name : {"fp32", "bf16", "int8", "int4"}) {
    const TableType type = parse_table_type(name);
    ParameterStore store = small_fused_model(/*kv_heads=*/2);
    const QuantizedWeights weights = quantized(store, {});
    const QuantizedWeights tables = round_tables(store, type);
    QuantizedModelInfo info = info_of({});
    info.bits = {4, 16, 16};
    info.tables = type;
    const TestFolder folder;
    const PartFolder parts = parts_of(store, weights, info, folder / "parts");
    TensorBuffers outside;
    const auto source = source_of(store);
    add_part(outside, source->read(kOutsideBlocks), tables, {}, 16, type);
    parts.save(-1, outside, Json::object());
    save_quantized_model_dir(parts, store.config, info, {}, folder.path(), folder / "out");
    const QuantizedModel model = load_quantized_model_dir(folder / "out");
    EXPECT_EQ(model.weights.size(), weights.size());
    EXPECT_EQ(model.tables.size(), tables.size());
    for (const char* table : {"model.embed_tokens.weight", "model.norm.weight"}) {
      EXPECT_TRUE(
          model.store.master(model.store.find(table)).equal(store.master(store.find(table))))
          << name << " " << table;
    }
    const Json config = read_json_file(folder / "out/config.json", 1 << 20);
    const bool integers = has_integers(type);
    EXPECT_EQ(config["osp_quantization"]["version"], integers ? 4 : 1);
    EXPECT_EQ(config["osp_quantization"].contains("osp_alone"), integers) << name;
    EXPECT_EQ(model.info.tables, integers ? type : TableType::fp32);
    const SafetensorsFile file = SafetensorsFile::open(folder / "out/model.safetensors");
    const std::string stored = "model.embed_tokens.weight";
    if (integers) {
      EXPECT_EQ(file.tensors().at(stored + "_scale").dtype, "F16");
    } else {
      EXPECT_EQ(file.tensors().at(stored).dtype, type == TableType::bf16 ? "BF16" : "F32");
    }
  }
}

TEST(QuantizedModelDir, ComputesWhatWasMeasuredBeforeItWasWritten) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  const TestFolder folder;
  const QuantizedWeights weights = quantized(store, {});
  save(store, weights, folder, folder / "out");
  const QuantizedModel model = load_quantized_model_dir(folder / "out");
  const at::Tensor tokens = at::arange(24, at::kLong).view({1, 24});
  const auto tap = model.make_tap();
  FakeQuantTap wanted(store, {4, 4, 4});
  EXPECT_TRUE(forward_logits(model.store, tokens, watched_by(*tap))
                  .equal(forward_logits(store, tokens, watched_by(wanted))));
}

// An offset for each input of both blocks.
InputOffsets offsets_of(const ParameterStore& store, MeanOffset inputs) {
  InputOffsets offsets;
  for (int64_t layer = 0; layer < store.config.layers; ++layer) {
    for (const TapPoint point : offset_points(inputs)) {
      const int64_t channels = point == TapPoint::mlp_product ? 64 : 32;
      offsets[{point, layer}] = at::arange(channels, at::kFloat).mul(0.01 * double(layer + 1));
    }
  }
  return offsets;
}

TEST(QuantizedModelDir, RoundsActivationsInGroupsAndLessOffsetsAsItDidBefore) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  const QuantizedWeights weights = quantized(store, {});
  for (const MeanOffset inputs : {MeanOffset::residual, MeanOffset::all}) {
    const TestFolder folder;
    QuantizedModelInfo info = info_of({});
    info.groups = {.inputs = 16, .down = 32};
    info.mean_offset = inputs;
    const InputOffsets offsets = offsets_of(store, inputs);
    save_quantized_model_dir(parts_of(store, weights, info, folder / "parts", offsets),
                             store.config, info, {}, folder.path(), folder / "out");
    const QuantizedModel model = load_quantized_model_dir(folder / "out");
    EXPECT_EQ(model.info.mean_offset, inputs);
    ASSERT_EQ(model.offsets.size(), offsets.size());
    FakeQuantTap wanted(store, {4, 4, 4}, {}, {.groups = info.groups, .offsets = offsets});
    FakeQuantTap without(store, {4, 4, 4}, {}, {.groups = info.groups});
    const at::Tensor tokens = at::arange(24, at::kLong).view({1, 24});
    const auto tap = model.make_tap();
    const at::Tensor logits = forward_logits(model.store, tokens, watched_by(*tap));
    EXPECT_TRUE(logits.equal(forward_logits(store, tokens, watched_by(wanted))));
    EXPECT_FALSE(logits.equal(forward_logits(store, tokens, watched_by(without))));
  }
}

TEST(QuantizedModelDir, AnOffsetThatIsMissingOrBrokenIsNamed) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  const QuantizedWeights weights = quantized(store, {});
  QuantizedModelInfo info = info_of({});
  info.mean_offset = MeanOffset::residual;
  const auto message = [&](const auto& damage) {
    InputOffsets offsets = offsets_of(store, MeanOffset::residual);
    damage(offsets);
    const TestFolder folder;
    save_quantized_model_dir(parts_of(store, weights, info, folder / "parts", offsets),
                             store.config, info, {}, folder.path(), folder / "out");
    return message_of(folder / "out");
  };
  const std::pair place{TapPoint::mlp_input, int64_t{1}};
  EXPECT_NE(message([&](InputOffsets& offsets) {
              offsets.erase(place);
            }).find("osp.layers.1.mlp_input.offset is missing"),
            std::string::npos);
  EXPECT_NE(message([&](InputOffsets& offsets) {
              offsets[place] = offsets[place].narrow(0, 0, 8);
            }).find("expected F32 [32]"),
            std::string::npos);
  EXPECT_NE(message([&](InputOffsets& offsets) {
              offsets[place].select(0, 3).fill_(std::nanf(""));
            }).find("is not finite"),
            std::string::npos);
}

TEST(QuantizedModelDir, NeverOverwritesAndLeavesNothingBehind) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  const TestFolder folder;
  save(store, quantized(store, {}), folder, folder / "out");
  EXPECT_FALSE(path_exists(folder / "out.tmp"));
  EXPECT_THROW(save(store, quantized(store, {}), folder, folder / "out"), Error);
}

TEST(QuantizedModelDir, DamageIsNamed) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  const TestFolder folder;
  const std::string out = folder / "out", config = out + "/config.json";
  save(store, quantized(store, {}), folder, out);
  const Json good = read_json_file(config);
  const auto with = [&](const char* key, const Json& value) {
    Json bad = good;
    bad["osp_quantization"][key] = value;
    write_file_atomic(config, bad.dump());
    return message_of(out);
  };
  EXPECT_NE(with("bits", "9-4-4").find("osp_quantization"), std::string::npos);
  EXPECT_NE(with("bits", "8-4-4").find("_packed"), std::string::npos);  // words of 4-bit codes
  EXPECT_NE(with("group", 48).find("groups of 48"), std::string::npos);
  EXPECT_NE(with("group", -32).find("a negative group"), std::string::npos);
  EXPECT_NE(with("down_block", -1).find("a negative group"), std::string::npos);
  EXPECT_NE(with("symmetric", false).find("zero_point is missing"), std::string::npos);
  EXPECT_NE(with("version", 7).find("version 7"), std::string::npos);
  EXPECT_NE(with("cache_clip", 1.5).find("parts of 1"), std::string::npos);
  EXPECT_NE(with("activation_group", 24).find("down_group"), std::string::npos);
  EXPECT_NE(with("mean_offset", "some").find("expected none"), std::string::npos);
  EXPECT_NE(with("static_scales", 3).find("static scales"), std::string::npos);
  Json bad = good;
  bad["osp_quantization"]["activation_group"] = 0;
  bad["osp_quantization"]["down_group"] = -32;
  write_file_atomic(config, bad.dump());
  EXPECT_NE(message_of(out).find("a negative group of activations"), std::string::npos);
  bad = good;
  bad["hidden_size"] = 64;
  write_file_atomic(config, bad.dump());
  EXPECT_NE(message_of(out).find("has shape"), std::string::npos);
}

TEST(QuantizedModelDir, WhatOthersWouldComputeDifferentlyHidesItsArchitecture) {
  // Other loaders pass transform_config over: they would compute something else without a word.
  const ModelConfig model = small_fused_model(/*kv_heads=*/2).config;
  const Json plain = parse_json(model_config_json(model), "config.json");
  const auto hidden = [&](const QuantizedModelInfo& info) {
    Json config = plain;
    add_quantization(config, info, model);
    EXPECT_EQ(without_quantization(config, "config.json"), plain);
    const bool compressed = config["quantization_config"]["quantization_status"] == "compressed";
    EXPECT_EQ(compressed, config["architectures"] == plain["architectures"]);
    EXPECT_EQ(compressed, config["model_type"] == "llama");
    EXPECT_EQ(compressed, why_osp_alone(info, model).empty());
    return !compressed;
  };
  QuantizedModelInfo info = info_of({});
  EXPECT_TRUE(hidden(info));  // the cache is quantized
  info.bits.kv_cache = 16;
  EXPECT_FALSE(hidden(info));
  info.clips.activations = 0.9;
  EXPECT_TRUE(hidden(info));
  info.bits.activations = 16;
  EXPECT_FALSE(hidden(info));
  info.online.down_hadamard = true;
  EXPECT_TRUE(hidden(info));
}

TEST(QuantizedModelDir, ThePlainStoreComputesWhatTheOnlineTransformsGive) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  const TestFolder folder;
  for (const int64_t block : {0, 16}) {
    QuantizedModelInfo info = info_of({});
    info.bits = {4, 16, 16};
    info.online = {.down_hadamard = true, .down_block = block};
    const std::string out = folder / fmt::format("out-{}", block);
    save_quantized_model_dir(parts_of(store, quantized(store, {}), info, out + "-parts"),
                             store.config, info, {}, folder.path(), out);
    const QuantizedModel model = load_quantized_model_dir(out);
    const at::Tensor tokens = at::arange(24, at::kLong).view({1, 24});
    const at::Tensor wanted = forward_logits(model.store, tokens, watched_by(*model.make_tap()));
    const at::Tensor found = forward_logits(model.plain_store(), tokens);
    // fp32 sums in another order.
    EXPECT_LT(found.sub(wanted).abs().max().item<double>(),
              1e-5 * wanted.abs().max().item<double>());
  }
}

TEST(QuantizedModelDir, ReadsZeroPointsThatEarlierVersionsPacked) {
  const ParameterStore store = small_fused_model(/*kv_heads=*/2);
  const WeightGrid grid{.bits = 4, .group = 32, .symmetric = false};
  const QuantizedWeights weights = quantized(store, grid);
  ParameterStore block = make_parameters(store.config, {.part = 0});
  TensorBuffers buffers;
  add_part(buffers, block, weights);
  std::map<std::string, TensorView> tensors;
  std::vector<at::Tensor> packed;
  for (const TensorEntry& entry : buffers.entries) {
    tensors[entry.name] = {entry.dtype, entry.shape, entry.data};
    if (!entry.name.ends_with("_zero_point")) continue;
    EXPECT_EQ(entry.dtype, "I8");
    const QuantizedLinear& layer =
        weights.at(entry.name.substr(0, entry.name.size() - std::string("_zero_point").size()));
    packed.push_back(packed_rows(layer.zero.t(), 4).t().contiguous());
    tensors[entry.name] = {
        "I32",
        packed.back().sizes().vec(),
        {static_cast<const std::byte*>(packed.back().const_data_ptr()), packed.back().nbytes()}};
  }
  ASSERT_FALSE(packed.empty());
  std::set<std::string> taken;
  for (const auto& [name, layer] : read_part(tensors, block, grid, "old", taken)) {
    EXPECT_TRUE(layer.zero.equal(weights.at(name).zero)) << name;
  }
}

TEST(QuantizedModelDir, ActivationGroupsAreCompressedTensorsAndOffsetsAreNot) {
  const ModelConfig config = small_fused_model(/*kv_heads=*/2).config;
  QuantizedModelInfo info = info_of({});
  const auto inputs = [&](const char* group) {
    return compressed_tensors_config(info, config)["config_groups"][group]["input_activations"];
  };
  EXPECT_EQ(inputs("group_3")["strategy"], "token");
  EXPECT_EQ(quantization_info_json(info)["version"], 1);  // as it was before groups
  EXPECT_FALSE(quantization_info_json(info).contains("activation_group"));
  info.groups = {.down = 32};
  EXPECT_EQ(inputs("group_0")["strategy"], "token");
  EXPECT_EQ(inputs("group_3")["strategy"], "group");
  EXPECT_EQ(inputs("group_3")["group_size"], 32);
  EXPECT_EQ(inputs("group_3")["dynamic"], true);
  info.groups = {.inputs = 8};
  for (const char* group : {"group_0", "group_1", "group_2", "group_3"}) {
    EXPECT_EQ(inputs(group)["group_size"], 8) << group;
  }
  EXPECT_EQ(quantization_info_json(info)["version"], 2);
  info.bits.kv_cache = 16;
  EXPECT_EQ(why_osp_alone(info, config), "");
  info.mean_offset = MeanOffset::residual;
  EXPECT_NE(why_osp_alone(info, config).find("offsets"), std::string::npos);
  info.bits.activations = 16;  // nothing is rounded, so nothing is lost
  EXPECT_EQ(why_osp_alone(info, config), "");
}

}  // namespace
}  // namespace osp
