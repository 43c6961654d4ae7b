#include "osp/model/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <optional>

#include "osp/base/error.h"
#include "osp/ops/attention.h"
#include "osp/ops/fused.h"

namespace osp {
namespace {

// Everything a forward pass carries along.
class Pass {
 public:
  Pass(const ParameterStore& store, const at::Tensor& tokens_BT, const ForwardOptions& options)
      : store_(store), config_(store.config), options_(options), tokens_BT_(tokens_BT) {
    OSP_CHECK(tokens_BT.dim() == 2 && tokens_BT.scalar_type() == at::kLong, "tokens are [B, T]");
    OSP_CHECK(!(options.cache != nullptr && options.training), "no training through a cache");
    first_position_ = options.cache != nullptr ? options.cache->length : 0;
    rope_ = make_rope_tables(first_position_ + tokens_BT.size(1), config_.head_size,
                             config_.rope_theta);
    if (options.documents_BT.defined()) {
      mask_ = document_mask(options.documents_BT, store.banks[0].compute.scalar_type());
    }
    if (options.training) {
      anchor_ = at::zeros({1}, store.banks[0].compute.options()).requires_grad_(true);
    }
  }

  at::Tensor hidden() {
    at::Tensor x = embedding_lookup();
    at::Tensor branch;  // not yet added to the residual: the next norm does that in one pass
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const std::string block = fmt::format("model.layers.{}.", layer);
      at::Tensor y;
      std::tie(x, y) = norm(x, branch, block + "input_layernorm.weight");
      if (layer > 0) x = residual_state(layer - 1, x, y, block + "input_layernorm.weight");
      branch = attention(layer, block, tap(TapPoint::attention_input, layer, y));
      std::tie(x, y) = norm(x, branch, block + "post_attention_layernorm.weight");
      branch = feed_forward(layer, block, tap(TapPoint::mlp_input, layer, y));
    }
    at::Tensor y;
    std::tie(x, y) = norm(x, branch, "model.norm.weight");
    residual_state(config_.layers - 1, x, y, "model.norm.weight");
    y = tap(TapPoint::final_state, config_.layers, y);
    if (config_.embedding_projection) y = linear_layer({"lm_head_proj.weight"}, y);
    if (options_.cache != nullptr) options_.cache->length += tokens_BT_.size(1);
    return tap(TapPoint::head_input, config_.layers, y);
  }

  // The head's weight: its own table, or the embedding's.
  WeightRef head() {
    const int64_t i = index(config_.tied ? "model.embed_tokens.weight" : "lm_head.weight");
    return {offered_weight(i), gradient(i)};
  }

 private:
  int64_t index(const std::string& name) const {
    const int64_t i = store_.find(name);
    OSP_CHECK(i >= 0, "no parameter {}", name);
    return i;
  }

  at::Tensor gradient(int64_t parameter) const {
    return options_.training ? store_.gradient(parameter) : at::Tensor();
  }

  at::Tensor tap(TapPoint point, int64_t layer, const at::Tensor& x) const {
    if (options_.tap == nullptr || !options_.tap->wants(point, layer)) return x;
    return options_.tap->at(point, layer, x);
  }

  bool taps_weights() const { return options_.tap != nullptr && options_.tap->wants_weights(); }
  bool taps_linear() const { return options_.tap != nullptr && options_.tap->wants_linear(); }

  at::Tensor offered_weight(int64_t parameter) const {
    const at::Tensor w = store_.compute(parameter);
    return taps_weights() ? options_.tap->weight(parameter, w) : w;
  }

  at::Tensor embedding_lookup() {
    const int64_t table = index("model.embed_tokens.weight");
    at::Tensor x = embedding(tokens_BT_, {offered_weight(table), gradient(table)}, anchor_);
    if (config_.embedding_projection) x = linear_layer({"model.embed_proj.weight"}, x);
    return tap(TapPoint::embedding, 0, x);
  }

  // (x + branch, norm of it); branch may be undefined.
  std::tuple<at::Tensor, at::Tensor> norm(const at::Tensor& x, const at::Tensor& branch,
                                          const std::string& name) const {
    const WeightRef g = gain(name);
    if (!branch.defined()) return {x, rms_norm(x, g, config_.norm_eps)};
    return add_rms_norm(x, branch, g, config_.norm_eps);
  }

  WeightRef gain(const std::string& name) const {
    if (config_.norm == "simple") return {};
    const int64_t i = index(name);
    return {store_.master(i), gradient(i)};
  }

  // Shows the residual state after a block; if the tap replaces it, its norm is computed anew.
  at::Tensor residual_state(int64_t layer, const at::Tensor& x, at::Tensor& y,
                            const std::string& next_norm) const {
    const at::Tensor seen = tap(TapPoint::residual, layer, x);
    if (!seen.is_same(x)) y = rms_norm(seen, gain(next_norm), config_.norm_eps);
    return seen;
  }

  // Output of one or several bias-free linear layers on the same input, side by side [..., Σ out].
  at::Tensor linear_layer(const std::vector<std::string>& names, const at::Tensor& x) const {
    std::vector<int64_t> parameters;
    for (const std::string& name : names) parameters.push_back(index(name));
    if (!taps_weights() && !taps_linear()) {
      if (const auto fused = contiguous_weight(parameters)) return linear(x, *fused);
    }
    std::vector<at::Tensor> outputs;
    for (const int64_t i : parameters) outputs.push_back(single_linear(i, x));
    return outputs.size() == 1 ? outputs[0] : at::cat(outputs, -1);
  }

  // One view over several weights and their gradients if they are neighbours in a bank.
  std::optional<WeightRef> contiguous_weight(const std::vector<int64_t>& parameters) const {
    const int64_t bank = store_.bank_of[parameters[0]], slot = store_.slot_of[parameters[0]];
    for (size_t i = 1; i < parameters.size(); ++i) {
      if (store_.bank_of[parameters[i]] != bank ||
          store_.slot_of[parameters[i]] != slot + static_cast<int64_t>(i)) {
        return std::nullopt;
      }
    }
    const auto rows = [&](const at::Tensor& t) {
      return t.narrow(0, slot, static_cast<int64_t>(parameters.size())).flatten(0, 1);
    };
    return WeightRef{rows(store_.banks[bank].compute),
                     options_.training ? rows(store_.banks[bank].gradient) : at::Tensor()};
  }

  at::Tensor single_linear(int64_t parameter, const at::Tensor& x) const {
    const WeightRef own{store_.compute(parameter), gradient(parameter)};
    at::Tensor y;
    if (taps_weights()) {
      const at::Tensor leaf = options_.training ? weight_leaf(own, anchor_) : own.value;
      y = at::matmul(x, options_.tap->weight(parameter, leaf).t());
    } else {
      y = linear(x, own);
    }
    if (taps_linear()) {
      options_.tap->linear_output(parameter, y.detach().flatten(0, -2));
      if (options_.training) {
        y.register_hook([watcher = options_.tap, parameter](const at::Tensor& dy) {
          watcher->linear_output_gradient(parameter, dy.flatten(0, -2));
        });
      }
    }
    return y;
  }

  at::Tensor attention(int64_t layer, const std::string& block, const at::Tensor& y) {
    const std::string prefix = block + "self_attn.";
    const int64_t B = y.size(0), T = y.size(1), H = config_.heads, Hkv = config_.kv_heads,
                  K = config_.head_size;
    at::Tensor q, k, v;
    const std::vector<std::string> names = {prefix + "q_proj.weight", prefix + "k_proj.weight",
                                            prefix + "v_proj.weight"};
    const at::Tensor qkv = linear_layer(names, y);
    if (config_.qk_norm) {
      const at::Tensor split = qkv.view({B, T, H + 2 * Hkv, K});
      q = rope(rms_norm(split.narrow(2, 0, H), gain(prefix + "q_norm.weight"), config_.norm_eps),
               rope_, first_position_);
      k = rope(rms_norm(split.narrow(2, H, Hkv), gain(prefix + "k_norm.weight"), config_.norm_eps),
               rope_, first_position_);
      v = split.narrow(2, H + Hkv, Hkv);
    } else {
      std::tie(q, k, v) = split_rope(qkv, H, Hkv, rope_, first_position_);
    }
    // Taps see [B, heads, T, K].
    q = tap(TapPoint::query, layer, q.transpose(1, 2)).transpose(1, 2);
    k = tap(TapPoint::key, layer, k.transpose(1, 2)).transpose(1, 2);
    v = tap(TapPoint::value, layer, v.transpose(1, 2)).transpose(1, 2);
    if (options_.cache != nullptr) std::tie(k, v) = append_to_cache(layer, k, v);
    at::Tensor out;
    if (options_.tap != nullptr && options_.tap->wants(TapPoint::attention_logits, layer)) {
      out = causal_attention_reference(q, k, v, mask_, [&](const at::Tensor& logits) {
        return options_.tap->at(TapPoint::attention_logits, layer, logits);
      });
    } else {
      out = causal_attention(q, k, v, mask_);
    }
    out = tap(TapPoint::attention_output, layer, out.reshape({B, T, H * K}));
    return linear_layer({prefix + "o_proj.weight"}, out);
  }

  at::Tensor feed_forward(int64_t layer, const std::string& block, const at::Tensor& y) const {
    const at::Tensor gate_up =
        linear_layer({block + "mlp.gate_proj.weight", block + "mlp.up_proj.weight"}, y);
    return linear_layer({block + "mlp.down_proj.weight"},
                        tap(TapPoint::mlp_product, layer, swiglu(gate_up)));
  }

  // Stores this pass's keys and values and returns all so far, [B, S, Hkv, K].
  std::tuple<at::Tensor, at::Tensor> append_to_cache(int64_t layer, const at::Tensor& k,
                                                     const at::Tensor& v) const {
    KvCache& cache = *options_.cache;
    const int64_t T = k.size(1), total = cache.length + T;
    const auto put = [&](at::Tensor& held, const at::Tensor& fresh) {
      OSP_CHECK(total <= held.size(2), "cache of {} tokens is full", held.size(2));
      held.narrow(2, cache.length, T).copy_(fresh.transpose(1, 2));
      return held.narrow(2, 0, total).transpose(1, 2);
    };
    return {put(cache.keys[layer], k), put(cache.values[layer], v)};
  }

  const ParameterStore& store_;
  const ModelConfig& config_;
  const ForwardOptions& options_;
  at::Tensor tokens_BT_;
  int64_t first_position_ = 0;
  RopeTables rope_;
  at::Tensor mask_;
  at::Tensor anchor_;
};

}  // namespace

KvCache make_kv_cache(const ParameterStore& store, int64_t batch, int64_t capacity) {
  const ModelConfig& config = store.config;
  KvCache cache;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (auto* part : {&cache.keys, &cache.values}) {
      part->push_back(at::zeros({batch, config.kv_heads, capacity, config.head_size},
                                store.banks[0].compute.options()));
    }
  }
  return cache;
}

at::Tensor forward_hidden(const ParameterStore& store, const at::Tensor& tokens_BT,
                          const ForwardOptions& options) {
  const at::AutoGradMode mode(options.training);
  return Pass(store, tokens_BT, options).hidden();
}

at::Tensor forward_logits(const ParameterStore& store, const at::Tensor& tokens_BT,
                          const ForwardOptions& options) {
  const at::AutoGradMode mode(options.training);
  Pass pass(store, tokens_BT, options);
  const at::Tensor h = pass.hidden();
  return linear(h, pass.head()).to(at::kFloat);
}

at::Tensor forward_loss_sum(const ParameterStore& store, const at::Tensor& tokens_BT,
                            const at::Tensor& targets_BT, const ForwardOptions& options,
                            double loss_scale) {
  const at::AutoGradMode mode(options.training);
  Pass pass(store, tokens_BT, options);
  const at::Tensor h = pass.hidden();
  return linear_cross_entropy(h.flatten(0, 1), pass.head(), targets_BT.flatten(), loss_scale,
                              options.training);
}

}  // namespace osp
