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
  // For `length` tokens per sequence, after those that the cache holds.
  Pass(const ParameterStore& store, int64_t length, const ForwardOptions& options)
      : store_(store), config_(store.config), options_(options) {
    OSP_CHECK(!(options.cache != nullptr && options.training), "no training through a cache");
    first_position_ = options.cache != nullptr ? options.cache->length : 0;
    rope_ = make_rope_tables(first_position_ + length, config_.head_size, config_.rope_theta);
    if (options.documents_BT.defined()) {
      mask_ = document_mask(options.documents_BT, store.banks[0].compute.scalar_type());
    }
    if (options.training) {
      anchor_ = at::zeros({1}, store.banks[0].compute.options()).requires_grad_(true);
    }
  }

  // The residual stream between two operations. A branch that is not yet added to it waits for the
  // next norm, which adds it in one pass; `ended` is the block whose last branch waits, −1 if none.
  struct Stream {
    at::Tensor x, branch;
    int64_t ended = -1;
  };

  at::Tensor embedding_lookup(const at::Tensor& tokens_BT) const {
    const int64_t table = index("model.embed_tokens.weight");
    at::Tensor x = embedding(tokens_BT, {offered_weight(table), gradient(table)}, anchor_);
    if (config_.embedding_projection) x = linear_layer({"model.embed_proj.weight"}, x);
    return tap(TapPoint::embedding, 0, x);
  }

  // One block; the branch of its feed-forward network is left waiting.
  void block(int64_t layer, Stream& stream) const {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    at::Tensor y = norm(stream, prefix + "input_layernorm.weight");
    stream.branch = attention(layer, prefix, tap(TapPoint::attention_input, layer, y));
    y = norm(stream, prefix + "post_attention_layernorm.weight");
    stream.branch = feed_forward(layer, prefix, tap(TapPoint::mlp_input, layer, y));
    stream.ended = layer;
  }

  // The residual stream with everything added that waits.
  at::Tensor settled(Stream& stream) const {
    if (stream.branch.defined()) stream.x = stream.x + stream.branch;
    stream.branch = at::Tensor();
    if (stream.ended >= 0) stream.x = tap(TapPoint::residual, stream.ended, stream.x);
    stream.ended = -1;
    return stream.x;
  }

  // Final norm and output EmbProj.
  at::Tensor final_state(Stream& stream) const {
    at::Tensor y = norm(stream, "model.norm.weight");
    y = tap(TapPoint::final_state, config_.layers, y);
    if (config_.embedding_projection) y = linear_layer({"lm_head_proj.weight"}, y);
    return tap(TapPoint::head_input, config_.layers, y);
  }

  at::Tensor hidden(const at::Tensor& tokens_BT) const {
    Stream stream{embedding_lookup(tokens_BT), {}};
    for (int64_t layer = 0; layer < config_.layers; ++layer) block(layer, stream);
    const at::Tensor h = final_state(stream);
    if (options_.cache != nullptr) options_.cache->length += tokens_BT.size(1);
    return h;
  }

  // fp32 logits (fp64 of a model in fp64).
  at::Tensor logits(const at::Tensor& h) const {
    const at::Tensor z = linear(h, head());
    return z.scalar_type() == at::kDouble ? z : z.to(at::kFloat);
  }

  // The head's weight: its own table, or the embedding's.
  WeightRef head() const {
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

  // Adds the branch that waits and returns the norm of the sum. Where the sum is the state after a
  // block, the tap sees it; if the tap replaces it, the norm is computed anew.
  at::Tensor norm(Stream& stream, const std::string& name) const {
    const WeightRef g = gain(name);
    if (!stream.branch.defined()) return rms_norm(settled(stream), g, config_.norm_eps);
    at::Tensor y;
    std::tie(stream.x, y) = add_rms_norm(stream.x, stream.branch, g, config_.norm_eps);
    stream.branch = at::Tensor();
    const at::Tensor sum = stream.x;
    if (!settled(stream).is_same(sum)) y = rms_norm(stream.x, g, config_.norm_eps);
    return y;
  }

  WeightRef gain(const std::string& name) const {
    if (config_.norm == "simple") return {};
    const int64_t i = index(name);
    return {store_.master(i), gradient(i)};
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
    return WeightRef{rows(store_.banks[bank].compute), gradient(parameters[0]).defined()
                                                           ? rows(store_.banks[bank].gradient)
                                                           : at::Tensor()};
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

  at::Tensor attention(int64_t layer, const std::string& block, const at::Tensor& y) const {
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
  int64_t first_position_ = 0;
  RopeTables rope_;
  at::Tensor mask_;
  at::Tensor anchor_;
};

int64_t length_of(const at::Tensor& tokens_BT) {
  OSP_CHECK(tokens_BT.dim() == 2 && tokens_BT.scalar_type() == at::kLong, "tokens are [B, T]");
  return tokens_BT.size(1);
}

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

at::Tensor forward_embedding(const ParameterStore& store, const at::Tensor& tokens_BT,
                             const ForwardOptions& options) {
  const at::AutoGradMode mode(options.training);
  return Pass(store, length_of(tokens_BT), options).embedding_lookup(tokens_BT);
}

at::Tensor forward_block(const ParameterStore& store, int64_t layer, const at::Tensor& x_BTD,
                         const ForwardOptions& options) {
  OSP_CHECK(layer >= 0 && layer < store.config.layers, "block {} of {}", layer,
            store.config.layers);
  const at::AutoGradMode mode(options.training);
  const Pass pass(store, x_BTD.size(1), options);
  Pass::Stream stream{x_BTD, {}};
  pass.block(layer, stream);
  return pass.settled(stream);
}

at::Tensor forward_head(const ParameterStore& store, const at::Tensor& x_BTD,
                        const ForwardOptions& options) {
  const at::AutoGradMode mode(options.training);
  const Pass pass(store, x_BTD.size(1), options);
  Pass::Stream stream{x_BTD, {}};
  return pass.logits(pass.final_state(stream));
}

at::Tensor forward_hidden(const ParameterStore& store, const at::Tensor& tokens_BT,
                          const ForwardOptions& options) {
  const at::AutoGradMode mode(options.training);
  return Pass(store, length_of(tokens_BT), options).hidden(tokens_BT);
}

at::Tensor forward_logits(const ParameterStore& store, const at::Tensor& tokens_BT,
                          const ForwardOptions& options) {
  const at::AutoGradMode mode(options.training);
  const Pass pass(store, length_of(tokens_BT), options);
  return pass.logits(pass.hidden(tokens_BT));
}

at::Tensor forward_loss_sum(const ParameterStore& store, const at::Tensor& tokens_BT,
                            const at::Tensor& targets_BT, const ForwardOptions& options,
                            double loss_scale) {
  const at::AutoGradMode mode(options.training);
  const Pass pass(store, length_of(tokens_BT), options);
  return linear_cross_entropy(pass.hidden(tokens_BT).flatten(0, 1), pass.head(),
                              targets_BT.flatten(), loss_scale, options.training);
}

}  // namespace osp
