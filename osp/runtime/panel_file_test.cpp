// A mapped model is the model that was written, bit for bit, and a file that is not is
// refused by name.
#include "osp/runtime/panel_file.h"

#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/formats/safetensors.h"
#include "osp/runtime/test_quantized.h"

namespace osp {
namespace {

// Models that differ in what a file must hold.
std::vector<TestModel> some_models() {
  std::vector<TestModel> models(5);
  models[4].bits = {8, 16, 16};
  models[4].weight_group = 32;
  models[0].config.tied = false;
  models[1].config.tied = true;
  models[1].weight_group = 16;
  models[1].asymmetric = true;
  models[2].config.qk_norm = true;
  models[2].config.qkv_bias = true;
  models[2].grids.groups.inputs = 32;
  models[3].online.down_hadamard = true;
  models[3].online.down_block = 32;
  models[3].config.vocabulary = 80;
  for (int64_t layer = 0; layer < models[3].config.layers; ++layer) {
    const at::Tensor offset = at::full({models[3].config.width}, 0.25 * (1.0 + double(layer)));
    models[3].grids.offsets[{TapPoint::mlp_input, layer}] = offset;
    models[3].grids.scales[{TapPoint::attention_input, layer}] = {.scale = 0.3, .zero = 8.0};
  }
  return models;
}

std::string written(const TestModel& model, const TestFolder& folder) {
  std::string path = folder / "panels.safetensors";
  write_panel_file(*model.make(), active_engine_kernels(), "abc", path);
  return path;
}

std::unique_ptr<const RuntimeModel> mapped(const TestModel& model, const std::string& path) {
  return model.with_parts([&](const QuantizedParts& parts) {
    return map_panel_file(parts, active_code_products(), path);
  });
}

std::vector<float> logits_of(std::unique_ptr<const RuntimeModel> model, int64_t head_bits) {
  Engine engine(std::move(model), {.threads = 1, .head_bits = head_bits});
  const std::vector<int32_t> tokens = test_tokens(40);
  KvSequence sequence = engine.new_sequence();
  const EngineRun run{&sequence, tokens};
  const std::span<const float> states = engine.read({&run, 1});
  std::vector<float> logits(tokens.size() * static_cast<size_t>(engine.config().vocabulary));
  engine.logits(states, logits);
  return logits;
}

TEST(PanelFile, AMappedModelIsTheOneThatWasWritten) {
  for (const TestModel& model : some_models()) {
    const TestFolder folder;
    const std::string path = written(model, folder);
    for (const int64_t bits : {16, 8, 4}) {
      EXPECT_EQ(logits_of(mapped(model, path), bits), logits_of(model.make(), bits));
    }
  }
}

TEST(PanelFile, EveryInstructionSetWritesAndReadsTheSame) {
  const TestModel model = some_models()[0];
  const TestFolder folder;
  const std::string path = written(model, folder), other = folder / "other";
  write_panel_file(*model.make(), kernels::engine_kernels_portable(), "abc", other);
  EXPECT_EQ(read_file(path), read_file(other));
  const auto portable = model.with_parts([&](const QuantizedParts& parts) {
    return map_panel_file(parts, kernels::code_products_portable(), path);
  });
  EXPECT_EQ(portable->layers.size(), 3u);
}

TEST(PanelFile, NumbersOffTheirAlignmentAreCopied) {
  const TestModel model = some_models()[1];
  const TestFolder folder;
  const SafetensorsFile file = SafetensorsFile::open(written(model, folder));
  std::vector<TensorEntry> entries;
  const std::string three = "abc";
  entries.push_back({"a", "U8", {3}, std::as_bytes(std::span(three))});
  for (const auto& [name, view] : file.tensors()) {
    entries.push_back({name, view.dtype, view.shape, view.data});
  }
  write_safetensors(folder / "moved", entries, file.metadata());
  EXPECT_EQ(logits_of(mapped(model, folder / "moved"), 8), logits_of(model.make(), 8));
}

// A change of one tensor or entry of a file.
struct Change {
  const char* name;
  std::function<void(std::vector<char>&)> tensor;
  const char* metadata_key = nullptr;
  ErrorCode code = ErrorCode::damaged;
  const char* says = nullptr;  // the tensor's name unless given
};

std::string error_of(const TestModel& model, const std::string& path, ErrorCode& code) {
  try {
    mapped(model, path);
  } catch (const Error& error) {
    code = error.code();
    return error.what();
  }
  return "";
}

TEST(PanelFile, WhatWasChangedIsNamed) {
  const TestModel model = some_models()[0];
  const TestFolder folder;
  const std::string path = written(model, folder);
  const SafetensorsFile file = SafetensorsFile::open(path);
  const auto flip = [](size_t at) {
    return [at](std::vector<char>& bytes) { bytes.at(at) ^= 0x10; };
  };
  const auto last = [](std::vector<char>& bytes) { bytes.back() ^= 1; };
  const auto number = [](auto x) {
    return [x](std::vector<char>& bytes) { std::memcpy(bytes.data(), &x, sizeof x); };
  };
  const auto shorter = [](std::vector<char>& bytes) { bytes.resize(bytes.size() - 64); };
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  const Change changes[] = {
      {"layers.1.qkv.panels", flip(77)},
      {"layers.2.down.panels", last},
      {"layers.0.gate_up.centre", number(1.0f)},
      {"layers.0.attention_output.shifted", number(9)},
      {"layers.0.attention_output.scale", number(nan)},
      {"layers.2.post_gain", number(infinity)},
      {"layers.2.input_gain", shorter},
      {"final_gain", number(nan)},
      {"head8.panels", flip(5)},
      {"head8.weight_sum", number(3.0f)},
      {"embedding", shorter},
      {"head", [](std::vector<char>& bytes) { bytes.clear(); }},
      {"layout", {}, "layout", ErrorCode::unsupported, "version \"7\" of its layout"},
      {"numerics", {}, "numerics", ErrorCode::unsupported, "version \"7\" of its numerics"},
      {"format", {}, "format", ErrorCode::damaged, "is no panel file"},
  };
  for (const Change& change : changes) {
    std::vector<TensorEntry> entries;
    std::vector<char> changed;
    for (const auto& [name, view] : file.tensors()) {
      TensorEntry entry{name, view.dtype, view.shape, view.data};
      if (name == change.name) {
        const char* data = reinterpret_cast<const char*>(view.data.data());
        changed.assign(data, data + view.data.size());
        change.tensor(changed);
        entry.data = std::as_bytes(std::span(changed));
        if (changed.size() != view.data.size()) {
          const int64_t bytes = safetensors_dtype_bits(view.dtype) / 8;
          entry.shape = {static_cast<int64_t>(changed.size()) / bytes};
        }
        if (changed.empty()) continue;
      }
      entries.push_back(entry);
    }
    std::map<std::string, std::string> metadata = file.metadata();
    if (change.metadata_key != nullptr) metadata[change.metadata_key] = "7";
    write_safetensors(folder / "changed", entries, metadata);
    ErrorCode code = ErrorCode::usage;
    const std::string text = error_of(model, folder / "changed", code);
    std::string says = change.says != nullptr ? change.says : change.name;
    if (says.ends_with(".centre") || says.ends_with(".shifted") || says.ends_with(".panels") ||
        says.ends_with(".weight_sum")) {
      says.resize(says.rfind('.'));  // sums name the layer and its row
    }
    EXPECT_NE(text.find(says), std::string::npos) << change.name << ": " << text;
    EXPECT_EQ(code, change.code) << text;
  }
}

TEST(PanelFile, OfAnotherShapeIsRefused) {
  const TestModel model = some_models()[0];
  const TestFolder folder;
  const std::string path = written(model, folder);
  for (const auto change :
       {+[](TestModel& m) { m.config.inner = 64; }, +[](TestModel& m) { m.config.layers = 4; },
        +[](TestModel& m) { m.weight_group = 16; }, +[](TestModel& m) { m.bits.weights = 8; }}) {
    TestModel other = model;
    change(other);
    ErrorCode code = ErrorCode::usage;
    EXPECT_NE(error_of(other, path, code), "");
    EXPECT_EQ(code, ErrorCode::damaged);
  }
  // A model that the engine cannot run is refused before the file is looked at.
  TestModel wide = model;
  wide.bits = {16, 8, 8};
  ErrorCode code = ErrorCode::usage;
  EXPECT_NE(error_of(wide, folder / "nowhere", code).find("16 bits"), std::string::npos);
}

// The kind: packing that does not hear a signal.
TEST(PanelFile, AStopIsHeardBeforeTheNextLayerIsPacked) {
  std::atomic<bool> flag = false;
  const StopFlag stop(flag);
  const StoppableFiles files;
  int64_t last = -1;
  TestModel().with_parts([&](const QuantizedParts& parts) {
    QuantizedParts stopping{parts.config,
                            parts.bits,
                            parts.weight_group,
                            parts.online,
                            parts.grids,
                            [&](Part part, QuantizedWeights& weights) {
                              last = part.value_or(-1);
                              flag = last == 1;
                              return parts.read(part, weights);
                            }};
    expect_error(ErrorCode::interrupted, {"while codes were packed"},
                 [&] { make_runtime_model(stopping); });
  });
  EXPECT_EQ(last, 1);
}

TEST(PanelFile, AStopIsHeardWhileTheHeadIsPacked) {
  const TestFolder folder;
  const auto model = TestModel().make();
  std::atomic<bool> flag = true;
  const StopFlag stop(flag);
  const StoppableFiles files;
  expect_error(ErrorCode::interrupted, {"while codes were packed"}, [&] {
    write_panel_file(*model, active_engine_kernels(), "abc", folder / "panels.safetensors");
  });
}

}  // namespace
}  // namespace osp
