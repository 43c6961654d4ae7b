// Feeds arbitrary JSON to the reader of config.json. An accepted configuration must be unchanged
// after it is written and read again.
#include <cstdint>
#include <string_view>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/model/hf_config.h"

namespace {

constexpr const char* kKeys[] = {"architectures",
                                 "model_type",
                                 "hidden_size",
                                 "num_hidden_layers",
                                 "num_attention_heads",
                                 "num_key_value_heads",
                                 "head_dim",
                                 "intermediate_size",
                                 "vocab_size",
                                 "max_position_embeddings",
                                 "rms_norm_eps",
                                 "layer_norm_eps",
                                 "layer_norm_epsilon",
                                 "rope_theta",
                                 "rope_scaling",
                                 "rope_parameters",
                                 "rope_type",
                                 "type",
                                 "factor",
                                 "low_freq_factor",
                                 "high_freq_factor",
                                 "original_max_position_embeddings",
                                 "partial_rotary_factor",
                                 "rotary_pct",
                                 "rotary_emb_base",
                                 "tie_word_embeddings",
                                 "hidden_act",
                                 "attention_bias",
                                 "mlp_bias",
                                 "use_qkv_bias",
                                 "sliding_window",
                                 "use_sliding_window",
                                 "layer_types",
                                 "eos_token_id",
                                 "bos_token_id",
                                 "pad_token_id",
                                 "quantization_config",
                                 "torch_dtype",
                                 "dtype",
                                 "clip_qkv",
                                 "osp_norm",
                                 "osp_embedding_projection",
                                 "osp_qk_norm",
                                 "osp_embedding_norm",
                                 "osp_branch_scale",
                                 "use_parallel_residual",
                                 "word_embed_proj_dim",
                                 "do_layer_norm_before",
                                 "ffn_dim",
                                 "use_sliding_windows",
                                 "attn_logit_softcapping",
                                 "full_attention",
                                 "sliding_attention",
                                 "LlamaForCausalLM",
                                 "MistralForCausalLM",
                                 "Qwen2ForCausalLM",
                                 "Qwen3ForCausalLM",
                                 "GPTNeoXForCausalLM",
                                 "OPTForCausalLM",
                                 "OlmoForCausalLM",
                                 "Olmo2ForCausalLM",
                                 "StableLmForCausalLM",
                                 "OspForCausalLM",
                                 "short_factor",
                                 "long_factor",
                                 "attention_factor",
                                 "beta_fast",
                                 "llama_4_scaling_beta",
                                 "sliding_window_pattern",
                                 "residual_multiplier",
                                 "query_pre_attn_scalar",
                                 "Phi3ForCausalLM",
                                 "Gemma3ForCausalLM",
                                 "Olmo3ForCausalLM",
                                 "GraniteForCausalLM",
                                 "Ministral3ForCausalLM",
                                 "yarn",
                                 "longrope",
                                 "llama3",
                                 "linear",
                                 "silu",
                                 "gelu",
                                 "relu"};

}  // namespace

OSP_JSON_MUTATOR(kKeys)

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::HfConfig config;
  try {
    config = osp::parse_hf_config(
        osp::parse_json({reinterpret_cast<const char*>(data), size}, "config.json"), "config.json");
  } catch (const osp::Error&) {
    return 0;
  }
  osp::fuzz::accepted(data, size);
  const std::string text = osp::model_config_json(config.model, "float32", config.end_tokens);
  const osp::HfConfig again = osp::parse_hf_config(osp::parse_json(text, "again"), "again");
  OSP_CHECK(osp::model_config_json(again.model, "float32", again.end_tokens) == text,
            "the configuration changed on its way: {}", text);
  return 0;
}
