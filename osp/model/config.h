// Shape and options of a model: a pre-norm Llama with the paper's switches, and the options by
// which other families differ from it.
//
// Tested by hf_config_test.cpp and tests/python/test_families.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/fields.h"
#include "osp/ops/rope_scaling.h"

namespace osp {

// The fields that fields() visits are those of a recipe, section [model]. 0 means "derive": see
// resolved_config(). The others describe models from elsewhere; their defaults are a Llama's.
struct ModelConfig {
  int64_t layers = 6;
  int64_t width = 256;
  int64_t heads = 4;
  int64_t kv_heads = 0;    // 0: heads
  int64_t head_size = 0;   // 0: width / heads
  int64_t inner = 0;       // 0: 8 width / 3 rounded up to a multiple of 128
  int64_t vocabulary = 0;  // 0: that of the data
  int64_t context = 256;
  std::string norm = "single-scale";
  double norm_eps = 1e-5;
  double rope_theta = 10000.0;
  bool tied = false;
  bool qk_norm = false;
  bool embedding_projection = true;
  // The Outlier Protected block (docs/numerics.md): norm = "none", and these.
  bool embedding_norm = false;
  bool branch_scale = false;
  double branch_scale_init = 0.0;  // 0: 1 / sqrt(2 layers)
  double init_std = 0.02;

  // The architecture whose config.json and tensor names the model has (hf_family.h); "": ours, that
  // is LlamaForCausalLM where the options are a Llama's and OspForCausalLM elsewhere.
  std::string family = {};
  // `norm` may also be "layer" (LayerNorm with weight and bias) or "layer-plain" (without both).
  bool norm_after = false;  // x + norm(f(x)) instead of x + f(norm(x)), but for the final norm
  bool norm_around =
      false;  // x + norm'(f(norm(x))): norms in front of the branches and behind them
  // x + attention(norm(x)) + mlp(norm'(x)) instead of one after the other; with shared_norm both
  // branches have the same norm.
  bool parallel = false;
  bool shared_norm = false;
  bool qk_norm_wide = false;  // with qk_norm: one norm over all heads of q, one over those of k
  bool qkv_bias = false;
  bool output_bias = false;  // of the projection after attention
  bool mlp_bias = false;
  bool gated = true;                // down(act(gate(x)) · up(x)), else down(act(up(x)))
  std::string activation = "silu";  // "relu", "relu2" (relu squared), "gelu", "gelu_tanh"
  double clip_qkv = 0.0;            // q, k and v are clamped to ± this, behind wide norms; 0: not
  int64_t rotary_size = 0;          // first channels of a head that are rotated; 0: all
  RopeScaling rope_scaling = {};
  // A table of positions instead of the rotary embedding; position p has row p + position_offset.
  bool learned_positions = false;
  int64_t position_offset = 0;
  // Blocks from first_window_layer on, except full_layers (ascending), see the newest `window`
  // tokens; 0: all. local_rope_theta is the base of their rotary embedding, which is not scaled
  // then; 0: they have that of all blocks.
  int64_t window = 0;
  int64_t first_window_layer = 0;
  std::vector<int64_t> full_layers = {};
  double local_rope_theta = 0.0;
  std::vector<int64_t> unrotated_layers = {};  // blocks without the rotary embedding, ascending
  // Mixtures of experts: in blocks other than dense_layers (ascending) the feed-forward network is
  // `experts` of them, each of inner size expert_inner, of which every token passes those with the
  // largest router probabilities (expert_routing.h). 0 experts: all blocks are dense.
  int64_t experts = 0;
  int64_t experts_per_token = 0;
  int64_t expert_inner = 0;
  bool normalized_routing = false;  // the chosen probabilities are divided by their sum
  bool routing_of_chosen = false;   // softmax of the chosen logits alone instead
  bool expert_bias = false;         // of the router and of every layer of the experts
  // An expert's product of gate g and up u is min(g, c) σ(a min(g, c)) (1 + u cut to ±c), for c = 0
  // act(g) u.
  double swiglu_limit = 0.0;    // c
  double swiglu_alpha = 1.702;  // a
  std::vector<int64_t> dense_layers = {};
  // Constant factors: of the embedding, of every branch, of queries · keys
  // (0: 1 / sqrt(head_size)); the logits are divided by the last.
  double embedding_multiplier = 1.0;
  double residual_multiplier = 1.0;
  double attention_multiplier = 0.0;
  double logit_divisor = 1.0;
  // c · tanh(z / c) of attention's logits and of the model's; 0: none.
  double attention_softcap = 0.0;
  double logit_softcap = 0.0;
  // A learned logit for each query head, beside those of the keys in the sum of attention's
  // softmax.
  bool attention_sinks = false;

  bool operator==(const ModelConfig&) const = default;
  bool layer_norm() const { return norm == "layer" || norm == "layer-plain"; }
  // True if the rotary embedding turns the queries and keys of a block.
  bool rotates(int64_t layer) const {
    return !learned_positions &&
           !std::binary_search(unrotated_layers.begin(), unrotated_layers.end(), layer);
  }
  // The number of tokens that a block sees at most; 0: all.
  int64_t window_of(int64_t layer) const {
    const bool all = layer < first_window_layer ||
                     std::binary_search(full_layers.begin(), full_layers.end(), layer);
    return all ? 0 : window;
  }
  // True if the feed-forward network of a block is a mixture of experts.
  bool routes(int64_t layer) const {
    return experts > 0 && !std::binary_search(dense_layers.begin(), dense_layers.end(), layer);
  }
  // True if any block has experts.
  bool has_experts() const {
    return experts > 0 && static_cast<int64_t>(dense_layers.size()) < layers;
  }
  // The inner size of a block's feed-forward network, or of each of its experts.
  int64_t inner_of(int64_t layer) const { return routes(layer) ? expert_inner : inner; }
  // The different inner sizes of all blocks, in the order of the blocks.
  std::vector<int64_t> inner_sizes() const;
  // True if a block has the rotary embedding of base local_rope_theta.
  bool rotates_locally(int64_t layer) const { return local_rope_theta > 0 && window_of(layer) > 0; }
  // True where norms stand in front of attention and of the feed-forward network.
  bool norm_before() const { return norm != "none" && !norm_after; }

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("layers", self.layers, Range{1, 1024}, "number of transformer blocks");
    visit("width", self.width, Range{8, 65536}, "number of channels of the residual stream");
    visit("heads", self.heads, Range{1, 1024}, "number of query heads");
    visit("kv_heads", self.kv_heads, Range{0, 1024},
          "number of key and value heads; 0 = as many as query heads");
    visit("head_size", self.head_size, Range{0, 1024},
          "number of channels per head; 0 = width / heads");
    visit("inner", self.inner, Range{0, 1 << 20},
          "inner size of the feed-forward network; 0 = 8 width / 3, rounded up to "
          "a multiple of 128");
    visit("vocabulary", self.vocabulary, Range{0, 1 << 24},
          "number of tokens in the vocabulary; 0 = the tokenizer's");
    visit("context", self.context, Range{2, 1 << 28}, "length of a training sequence in tokens");
    visit("norm", self.norm, Choices{{"rms", "single-scale", "simple", "none"}},
          "kind of norm: rms = RMSNorm with a weight per channel, single-scale = "
          "with one scalar (SSNorm), simple = with neither, none = no norms in the "
          "blocks and one scalar elsewhere");
    visit("norm_eps", self.norm_eps, Range{0, 1}, "number added to the mean square in norms");
    visit("rope_theta", self.rope_theta, Range{1, 1e15}, "base of the rotary embedding");
    visit("tied", self.tied, "share the embedding's matrix with the head");
    visit("qk_norm", self.qk_norm,
          "apply RMSNorm to each query and key head before the rotary embedding");
    visit("embedding_projection", self.embedding_projection,
          "add full-rank projections after the embedding and before the head "
          "(EmbProj)");
    visit("embedding_norm", self.embedding_norm, "apply a norm to the embedding, after EmbProj");
    visit("branch_scale", self.branch_scale,
          "multiply every branch by a trained scalar before it joins the residual "
          "stream");
    visit("branch_scale_init", self.branch_scale_init, Range{0, 10},
          "initial value of the scalars of model.branch_scale; 0 = 1 / sqrt(2 "
          "layers)");
    visit("init_std", self.init_std, Range{0, 10}, "standard deviation of the initial weights");
  }
};

// The configuration with every derived size filled in. Error(usage) if sizes contradict each
// other (heads that do not divide the width, kv_heads that do not divide heads, odd head_size,
// EmbProj with a tied head, an initial branch scale without branch scales), or options of other
// families those of ours, naming both and saying what to change.
ModelConfig resolved_config(ModelConfig config);

}  // namespace osp
