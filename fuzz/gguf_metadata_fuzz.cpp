// Makes a GGUF file of the metadata in a JSON object {"key": value} and of a small model's tensors,
// of a mixture of experts if the architecture is one, and feeds it to the readers of the
// configuration, the tokenizer and the weights. What they accept must be a configuration that osp
// reads.
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "fuzz/memory_file.h"
#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/formats/gguf_writer.h"
#include "osp/model/gguf_model.h"
#include "osp/model/hf_config.h"
#include "osp/model/model_files.h"
#include "osp/tokenizer/gguf.h"

namespace {

constexpr const char* kKeys[] = {"general.architecture",
                                 "llama.context_length",
                                 "llama.embedding_length",
                                 "llama.block_count",
                                 "llama.feed_forward_length",
                                 "llama.attention.head_count",
                                 "llama.attention.head_count_kv",
                                 "llama.attention.key_length",
                                 "llama.attention.value_length",
                                 "llama.rope.dimension_count",
                                 "llama.rope.freq_base",
                                 "llama.rope.scaling.type",
                                 "llama.rope.scaling.factor",
                                 "llama.rope.scaling.original_context_length",
                                 "llama.rope.scale_linear",
                                 "llama.attention.layer_norm_rms_epsilon",
                                 "llama.attention.sliding_window",
                                 "llama.vocab_size",
                                 "llama.expert_count",
                                 "qwen3moe.expert_count",
                                 "qwen3moe.expert_used_count",
                                 "qwen3moe.expert_feed_forward_length",
                                 "qwen3moe.expert_gating_func",
                                 "qwen3moe.expert_weights_norm",
                                 "gpt-oss.expert_count",
                                 "gpt-oss.expert_used_count",
                                 "gpt-oss.expert_feed_forward_length",
                                 "gpt-oss.attention.sliding_window",
                                 "gpt-oss.rope.scaling.type",
                                 "gpt-oss.rope.scaling.factor",
                                 "gpt-oss.rope.scaling.original_context_length",
                                 "gpt-oss.rope.scaling.yarn_beta_fast",
                                 "tokenizer.ggml.model",
                                 "tokenizer.ggml.pre",
                                 "tokenizer.ggml.tokens",
                                 "tokenizer.ggml.merges",
                                 "tokenizer.ggml.scores",
                                 "tokenizer.ggml.token_type",
                                 "tokenizer.ggml.bos_token_id",
                                 "tokenizer.ggml.eos_token_id",
                                 "tokenizer.ggml.eot_token_id",
                                 "tokenizer.ggml.add_bos_token",
                                 "tokenizer.chat_template",
                                 "llama",
                                 "qwen3moe",
                                 "gpt-oss",
                                 "gpt2",
                                 "llama-bpe",
                                 "linear",
                                 "yarn",
                                 "none"};

// Adds one entry; values that GGUF has no type for are left out.
void add(osp::GgufMetadataWriter& metadata, const std::string& key, const osp::Json& value) {
  if (value.is_string()) return metadata.text(key, value.get<std::string>());
  if (value.is_boolean()) return metadata.flag(key, value.get<bool>());
  if (value.is_number_float()) return metadata.f32(key, static_cast<float>(value.get<double>()));
  if (value.is_number()) return metadata.u32(key, static_cast<uint32_t>(value.get<int64_t>()));
  if (!value.is_array() || value.empty()) return;
  const auto all = [&](auto is) {
    for (const osp::Json& entry : value) {
      if (!is(entry)) return false;
    }
    return true;
  };
  if (all([](const osp::Json& e) { return e.is_string(); })) {
    metadata.texts(key, value.get<std::vector<std::string>>());
  } else if (all([](const osp::Json& e) { return e.is_number_integer(); })) {
    metadata.i32s(key, value.get<std::vector<int32_t>>());
  } else if (all([](const osp::Json& e) { return e.is_number(); })) {
    metadata.f32s(key, value.get<std::vector<float>>());
  }
}

std::vector<osp::GgufTensorEntry> small_tensors(const std::string& architecture) {
  std::vector<osp::GgufTensorEntry> tensors;
  const auto add_tensor = [&](const std::string& name, std::vector<int64_t> shape) {
    tensors.push_back(
        {name, osp::GgufTensorType::f32, std::move(shape),
         [](std::span<std::byte> b) { std::fill(b.begin(), b.end(), std::byte{0}); }});
  };
  add_tensor("token_embd.weight", {4, 8});
  add_tensor("output_norm.weight", {8});
  for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
    add_tensor(std::string("blk.0.") + name + ".weight", {8, 8});
  }
  add_tensor("blk.0.attn_norm.weight", {8});
  // The feed-forward network, or one of three experts.
  const bool biased = architecture == "gpt-oss";
  const bool experts = biased || architecture == "qwen3moe" || architecture == "olmoe";
  const auto add_layer = [&](const std::string& name, int64_t rows, int64_t columns) {
    if (!experts) return add_tensor(name + ".weight", {rows, columns});
    add_tensor(name + "_exps.weight", {3, rows, columns});
    if (biased) add_tensor(name + "_exps.bias", {3, rows});
  };
  add_layer("blk.0.ffn_gate", 16, 8);
  add_layer("blk.0.ffn_up", 16, 8);
  add_layer("blk.0.ffn_down", 8, 16);
  add_tensor(biased ? "blk.0.post_attention_norm.weight" : "blk.0.ffn_norm.weight", {8});
  if (experts) add_tensor("blk.0.ffn_gate_inp.weight", {3, 8});
  if (biased) {
    add_tensor("output.weight", {4, 8});
    add_tensor("blk.0.ffn_gate_inp.bias", {3});
    add_tensor("blk.0.attn_sinks.weight", {2});
    for (const char* name : {"attn_q", "attn_k", "attn_v", "attn_output"}) {
      add_tensor(std::string("blk.0.") + name + ".bias", {8});
    }
  } else if (experts) {  // of heads of 4 channels, or of all of an olmoe
    const int64_t size = architecture == "olmoe" ? 8 : 4;
    add_tensor("blk.0.attn_q_norm.weight", {size});
    add_tensor("blk.0.attn_k_norm.weight", {size});
    add_tensor("output.weight", {4, 8});
  }
  return tensors;
}

template <class Call>
void tried(const Call& call) {
  try {
    call();
  } catch (const osp::Error&) {
  }
}

}  // namespace

OSP_JSON_MUTATOR(kKeys)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::Json input;
  try {
    input = osp::parse_json({reinterpret_cast<const char*>(data), size}, "input");
  } catch (const osp::Error&) {
    return 0;
  }
  if (!input.is_object()) return 0;
  osp::GgufMetadataWriter metadata;
  for (const auto& [key, value] : input.items()) add(metadata, key, value);
  const std::string path = osp::fuzz::memory_folder() / "model.gguf";
  const std::string architecture =
      input.contains("general.architecture") && input["general.architecture"].is_string()
          ? input["general.architecture"].get<std::string>()
          : "";
  osp::write_gguf(path, metadata, small_tensors(architecture));
  tried([&] {
    const osp::GgufFile file = osp::GgufFile::open(path);
    tried([&] {
      const osp::Json config = osp::gguf_config_json(file);
      const osp::HfConfig read = osp::parse_hf_config(config, path);
      osp::model_config_json(read.model, "float32", read.end_tokens);
    });
    tried([&] {
      if (osp::gguf_has_tokenizer(file.metadata())) osp::gguf_tokenizer_json(file.metadata());
    });
  });
  tried([&] {
    const auto model = osp::open_gguf_model(path);
    osp::fuzz::accepted(data, size);
    for (int64_t part = osp::kNoLayer; part < model->config().layers; ++part) model->read(part);
  });
  tried([&] { osp::load_end_tokens(path); });
  tried([&] { osp::load_chat_template(path); });
  return 0;
}
