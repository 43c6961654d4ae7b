// Refusals before any work. Whole runs of quantize_model are in tests/python/test_quantize.py.
#include "osp/ptq/quantize_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/model/test_model.h"

namespace osp {
namespace {

// A model of which nothing but the configuration may be asked.
class UnreadableSource : public ModelSource {
 public:
  explicit UnreadableSource(ModelConfig config) : config_(std::move(config)) {}
  const ModelConfig& config() const override { return config_; }
  ParameterStore read(Part, StoreOptions) const override {
    throw std::logic_error("a tensor was read");
  }

 private:
  ModelConfig config_;
};

ModelConfig llama() {
  ModelConfig config;
  config.layers = 2;
  config.width = 48;
  config.heads = 4;
  config.head_size = 12;
  config.inner = 80;
  config.vocabulary = 61;
  config.context = 32;
  config.norm = "rms";
  config.embedding_projection = false;
  return resolved_config(config);
}

template <class Change>
ModelConfig llama_with(const Change& change) {
  ModelConfig config = llama();
  change(config);
  return config;
}

// With a calibration text that does not exist: reading it would be another error.
QuantizeRequest request_for(const std::string& method) {
  QuantizeRequest request;
  request.method = parse_method(method);
  request.calibration = "/nowhere/text.txt";
  request.out = "/nowhere/out";
  return request;
}

// Error message of quantize_model.
std::string refusal(const ModelConfig& config, const QuantizeRequest& request,
                    ErrorCode code = ErrorCode::unsupported) {
  try {
    quantize_model(UnreadableSource(config), "/nowhere/model", request);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  } catch (const std::logic_error& error) {
    return error.what();
  }
  return "not refused";
}

struct FamilyCase {
  const char* name;
  ModelConfig config;
  // Transforms that are refused, with the beginning of the message; all others serve the family.
  std::vector<std::pair<const char*, const char*>> refused;
};

std::vector<FamilyCase> family_cases() {
  const char* no_scales = "SmoothQuant needs a norm with weights";
  const char* no_r1 = "R1 (rotation of the residual stream) is not exact for this family";
  const char* no_r2 = "R2 (rotation of values) is not exact for this family: it clips";
  const char* width = "R1 (residual stream): the width is 46";
  const char* inner = "R4 (input of the down projection): the block is 92";
  const char* head = "R2 (values of layer 0): the head size is 6";
  return {
      {"Llama", llama(), {}},
      {"Qwen2", llama_with([](ModelConfig& c) { c.qkv_bias = true; }), {}},
      {"Llama with attention_bias",
       llama_with([](ModelConfig& c) { c.qkv_bias = c.output_bias = true; }),
       {}},
      {"OLMo",
       llama_with([](ModelConfig& c) {
         c.norm = "layer-plain";
         c.clip_qkv = 8.0;
       }),
       {{"quarot", no_r2},
        {"spinquant", no_r2},
        {"spinquant-kurtosis", no_r2},
        {"smoothquant", no_scales}}},
      {"OLMo 1 without clipping",
       llama_with([](ModelConfig& c) { c.norm = "layer-plain"; }),
       {{"smoothquant", no_scales}}},
      {"OLMo-2",
       llama_with([](ModelConfig& c) { c.norm_after = c.qk_norm = c.qk_norm_wide = true; }),
       {{"spinquant", no_r1}, {"spinquant-kurtosis", no_r1}, {"smoothquant", no_scales}}},
      {"Gemma, GLM-4",
       llama_with([](ModelConfig& c) {
         c.norm_around = true;
         c.embedding_multiplier = 6.0;
       }),
       {{"spinquant", no_r1}, {"spinquant-kurtosis", no_r1}}},
      {"Granite",
       llama_with([](ModelConfig& c) {
         c.residual_multiplier = 0.22;
         c.attention_multiplier = 0.1;
         c.logit_divisor = 8.0;
       }),
       {}},
      {"Arcee",
       llama_with([](ModelConfig& c) {
         c.gated = false;
         c.activation = "relu2";
       }),
       {}},
      {"Pythia",
       llama_with([](ModelConfig& c) {
         c.norm = "layer";
         c.parallel = c.qkv_bias = c.output_bias = c.mlp_bias = true;
         c.gated = false;
         c.activation = "gelu";
         c.rotary_size = 4;
       }),
       {}},
      {"Qwen3-MoE",
       llama_with([](ModelConfig& c) {
         c.qk_norm = true;
         c.experts = 4;
         c.experts_per_token = 2;
         c.expert_inner = 32;
       }),
       {{"awq", "AWQ chooses scales and clips by the inputs that a layer meets"},
        {"spinquant", "SpinQuant learns from gradients"},
        {"spinquant-kurtosis", "SpinQuant learns from gradients"}}},
      {"experts without a Hadamard matrix",
       llama_with([](ModelConfig& c) {
         c.experts = c.experts_per_token = 1;
         c.expert_inner = 92;
         c.dense_layers = {0};
       }),
       {{"ffn-hadamard", "FFN Hadamard (input of the down projection): the block is 92"},
        {"quarot", inner},
        {"awq", "AWQ"},
        {"spinquant", "SpinQuant"},
        {"spinquant-kurtosis", "SpinQuant"}}},
      {"no norms",
       llama_with([](ModelConfig& c) { c.norm = "none"; }),
       {{"smoothquant", no_scales}}},
      {"a width without a Hadamard matrix",
       llama_with([](ModelConfig& c) { c.width = 46; }),
       {{"quarot", width}, {"spinquant", width}, {"spinquant-kurtosis", width}}},
      {"an inner size without a Hadamard matrix",
       llama_with([](ModelConfig& c) { c.inner = 92; }),
       {{"ffn-hadamard", "FFN Hadamard (input of the down projection): the block is 92"},
        {"quarot", inner},
        {"spinquant", inner},
        {"spinquant-kurtosis", inner}}},
      {"a head size without a Hadamard matrix",
       llama_with([](ModelConfig& c) { c.head_size = 6; }),
       {{"quarot", head}, {"spinquant", head}, {"spinquant-kurtosis", head}}},
  };
}

TEST(QuantizeModel, TransformsRefuseFamiliesWithoutReadingATensorAndServeTheOthers) {
  for (const FamilyCase& family : family_cases()) {
    for (const TransformRow* row : transforms()) {
      QuantizeRequest request = request_for(std::string(row->name));
      request.bits = {4, 4, 16};  // keys need no Hadamard
      const auto expected =
          std::find_if(family.refused.begin(), family.refused.end(),
                       [&](const auto& refused) { return row->name == refused.first; });
      if (expected != family.refused.end()) {
        const std::string message = refusal(family.config, request);
        EXPECT_TRUE(message.starts_with(expected->second))
            << family.name << ", " << row->name << ": " << message;
      } else {
        EXPECT_NO_THROW(check_method_serves(request, family.config))
            << family.name << ", " << row->name;
      }
    }
  }
}

TEST(QuantizeModel, CorrectionsForChangedInputsAreRefusedForExperts) {
  const ModelConfig config = llama_with([](ModelConfig& c) {
    c.experts = 4;
    c.experts_per_token = 2;
    c.expert_inner = 32;
  });
  for (const RoundingRow* row : roundings()) {
    QuantizeRequest request = request_for(std::string(row->name));
    request.bits = {4, 4, 16};
    if (row->hessian != HessianKind::quantized_and_difference) {
      EXPECT_NO_THROW(check_method_serves(request, config)) << row->name;
      continue;
    }
    EXPECT_NE(refusal(config, request).find("may send a token to different experts"),
              std::string::npos)
        << row->name;
  }
}

TEST(QuantizeModel, SizesThatDoNotDivideAreRefusedWithoutReadingATensor) {
  for (const std::string& method : table_methods()) {
    QuantizeRequest request = request_for(method);
    request.group = 9;
    EXPECT_NE(refusal(llama(), request, ErrorCode::usage).find("groups of 9 do not divide"),
              std::string::npos)
        << method;
  }
  for (const TransformRow* row : transforms()) {
    if (!row->leaves_down_hadamard) continue;
    QuantizeRequest request = request_for(std::string(row->name));
    request.down_block = 24;
    EXPECT_NE(refusal(llama(), request, ErrorCode::usage).find("blocks of 24 do not divide"),
              std::string::npos)
        << row->name;
  }
}

TEST(QuantizeModel, KeysWithoutAHadamardMatrixAreRefusedWithoutReadingATensor) {
  const ModelConfig config = llama_with([](ModelConfig& c) { c.head_size = 6; });
  for (const char* method : {"rtn", "gptq", "awq"}) {
    QuantizeRequest request = request_for(method);
    EXPECT_TRUE(refusal(config, request).starts_with("head size is 6")) << method;
    request.bits = {4, 4, 16};
    EXPECT_NO_THROW(check_method_serves(request, config)) << method;
  }
}

TEST(QuantizeModel, ScalesAfterNormsThatAreNotThereAreRefusedWithoutReadingATensor) {
  for (const char* norm : {"none", "after"}) {
    const ModelConfig config = llama_with([&](ModelConfig& c) {
      c.norm_after = norm == std::string("after");
      if (!c.norm_after) c.norm = norm;
    });
    QuantizeRequest request = request_for("gptq");
    request.activations = ActivationMode::after_norm;
    EXPECT_TRUE(refusal(config, request).starts_with("one static scale after each norm")) << norm;
    request.bits = {4, 16, 4};  // no activation gets a scale
    EXPECT_NO_THROW(check_method_serves(request, config)) << norm;
  }
}

TEST(QuantizeModel, MissingCalibrationIsRefusedWithoutReadingATensor) {
  for (const TransformRow* row : transforms()) {
    for (const RoundingRow* rounding : roundings()) {
      QuantizeRequest request =
          request_for(std::string(row->name) + "+" + std::string(rounding->name));
      request.calibration = "";
      if (!row->needs_calibration && !rounding->needs_calibration()) {
        EXPECT_NO_THROW(check_request(request)) << request.method.name;
        continue;
      }
      EXPECT_NE(refusal(llama(), request, ErrorCode::usage).find("needs --calibration"),
                std::string::npos)
          << request.method.name;
    }
  }
}

TEST(QuantizeModel, OneScalePerTensorNeedsCalibrationWhateverTheMethod) {
  QuantizeRequest request = request_for("rtn");
  request.calibration = "";
  request.activations = ActivationMode::per_tensor;
  const std::string message = refusal(llama(), request, ErrorCode::usage);
  EXPECT_EQ(message,
            "--method rtn with --activation-scales per-tensor needs --calibration: token shards or "
            "a text");
}

TEST(QuantizeModel, MeanOffsetsNeedCalibrationWhateverTheMethod) {
  QuantizeRequest request = request_for("rtn");
  request.calibration = "";
  request.mean_offset = MeanOffset::residual;
  EXPECT_EQ(refusal(llama(), request, ErrorCode::usage),
            "--method rtn with --mean-offset residual needs --calibration: token shards or a text");
}

TEST(QuantizeModel, GroupsAndOffsetsThatWouldDoNothingOrContradictScalesAreRefused) {
  QuantizeRequest request = request_for("rtn");
  const auto refused = [&](const char* part) {
    const std::string message = refusal(llama(), request, ErrorCode::usage);
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  request.groups = {.down = 16};
  request.bits = {4, 16, 4};
  refused("activations keep 16 bits");
  request.groups = {};
  request.mean_offset = MeanOffset::all;
  refused("activations keep 16 bits");
  request.bits = {4, 4, 4};
  request.activations = ActivationMode::after_norm;
  refused("rows less their mean");
  request.mean_offset = MeanOffset::none;
  request.groups = {.inputs = 4};
  refused("one constant has no groups");
  request.groups = {.down = 16};
  EXPECT_NO_THROW(check_request(request));  // the down projection's input stays dynamic
  request.activations = ActivationMode::per_tensor;
  refused("one constant has no groups");
  request.activations = ActivationMode::per_token;
  request.groups = {.down = 24};
  refused("groups of 24 do not divide the inner size 80");
}

// A request that learns rotations in two steps on a text of two letters.
QuantizeRequest spinquant_request(const TestFolder& folder) {
  write_file_atomic(folder / "tokenizer.json", R"({"version":"1.0","added_tokens":[],
    "normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,
    "trim_offsets":true,"use_regex":true},"post_processor":null,"decoder":{"type":"ByteLevel"},
    "model":{"type":"BPE","vocab":{"a":0,"b":1,"Ċ":2,"Ġ":3},"merges":[]}})");
  write_file_atomic(folder / "text.txt", "abba baab aabb bbaa abab baba aaab bbba");
  QuantizeRequest request;
  request.method = parse_method("spinquant+rtn");
  request.calibration = folder / "text.txt";
  request.windows = 2;
  request.length = 16;
  request.spin = {.steps = 2, .batch = 1};
  request.out = folder / "out";
  return request;
}

TEST(QuantizeModel, LearnedRotationsAreKeptForTheRunThatIsResumed) {
  const TestFolder folder;
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  QuantizeRequest request = spinquant_request(folder);
  int64_t steps = 0, stops = 0;
  request.progress = [&](const char* what, int64_t, int64_t, double) {
    steps += std::string(what) == "steps" ? 1 : 0;
  };
  const auto run = [&] {
    steps = 0;
    return quantize_model(*source_of(store), folder.path(), request);
  };
  // The whole run, then one that is stopped behind its first block.
  const QuantizeOutcome whole = run();
  EXPECT_EQ(steps, 2);
  const std::string weights = read_file(request.out + "/model.safetensors");
  request.out = folder / "stopped";
  request.resume = true;
  expect_error(ErrorCode::usage, {"nothing to resume"}, run);
  EXPECT_EQ(steps, 0) << "learned before it was refused";
  request.resume = false;
  request.stop = [&] { return ++stops > 4; };
  expect_error(ErrorCode::interrupted, {}, run);
  const std::string learned = request.out + ".work/learned.safetensors";
  EXPECT_TRUE(path_exists(learned));
  // What was learned is read back, not learned again.
  request.stop = {};
  request.resume = true;
  const std::string kept = read_file(learned);
  std::string damaged = kept;
  damaged[damaged.size() - 1] ^= 0x40;
  write_file_atomic(learned, damaged);
  expect_error(ErrorCode::damaged, {"learned.safetensors", "no rotation", "begin anew"}, run);
  write_file_atomic(learned, kept);
  const QuantizeOutcome resumed = run();
  EXPECT_EQ(steps, 0);
  EXPECT_EQ(read_file(request.out + "/model.safetensors"), weights);
  EXPECT_EQ(resumed.report["learning"], whole.report["learning"]);
  // Another model in the same place is refused by its weights, those of the last block too.
  request.stop = [] { return true; };
  request.resume = false;
  request.out = folder / "other";
  expect_error(ErrorCode::interrupted, {}, run);
  ParameterStore changed = small_fused_model(/*kv_heads=*/1);
  changed.banks.back().master.view({-1})[0] += 1.0;
  request.resume = true;
  expect_error(ErrorCode::usage, {"other settings"},
               [&] { return quantize_model(*source_of(changed), folder.path(), request); });
}

TEST(QuantizeModel, ARunIsResumedWithTheSameOptionsThatAffectResultsOnly) {
  const TestFolder folder;
  const ParameterStore store = small_fused_model(/*kv_heads=*/1);
  QuantizeRequest request = spinquant_request(folder);
  request.stop = [] { return true; };
  const auto run = [&] { quantize_model(*source_of(store), folder.path(), request); };
  const auto code = [&] {
    try {
      run();
    } catch (const Error& error) {
      return error.code();
    }
    return ErrorCode::io;
  };
  request.resume = true;
  EXPECT_EQ(code(), ErrorCode::usage);  // nothing there to resume
  request.resume = false;
  EXPECT_EQ(code(), ErrorCode::interrupted);
  request.resume = true;
  EXPECT_EQ(code(), ErrorCode::interrupted);  // resumed
  request.spin.steps = 1;
  EXPECT_EQ(code(), ErrorCode::usage);  // begun with other settings
  request.spin.steps = 2;
  request.seed = 1;
  EXPECT_EQ(code(), ErrorCode::usage);
  request.seed = 0;
  request.activations = ActivationMode::per_tensor;
  EXPECT_EQ(code(), ErrorCode::usage);
  request.activations = ActivationMode::per_token;
  request.groups.down = 8;
  EXPECT_EQ(code(), ErrorCode::usage);
  request.groups.down = 0;
  request.mean_offset = MeanOffset::residual;
  EXPECT_EQ(code(), ErrorCode::usage);
  request.mean_offset = MeanOffset::none;
  request.memory_gib = 2.0;  // where activations are kept, not what they are
  EXPECT_EQ(code(), ErrorCode::interrupted);
}

}  // namespace
}  // namespace osp
