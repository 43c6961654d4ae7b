#include "osp/model/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <memory>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/model/feed_forward.h"
#include "osp/model/forward_engine.h"
#include "osp/model/parameter_access.h"
#include "osp/model/pass_positions.h"
#include "osp/ops/attention.h"
#include "osp/ops/branch_scale.h"
#include "osp/ops/fused.h"
#include "osp/ops/layer_norm.h"
#include "osp/ops/linear.h"
#include "osp/ops/recompute.h"

namespace osp {

// Everything a forward pass carries along: parameters, positions, masks and the options.
class ForwardPass : public std::enable_shared_from_this<ForwardPass> {
  using Role = ParameterRole;

 public:
  // For `length` tokens per sequence, after those that the cache holds.
  ForwardPass(const ParameterStore& store, int64_t length, const ForwardOptions& options)
      : config_(store.config),
        options_(options),
        parameters_(store, options.tap, options.training, !options.segments.empty()),
        positions_(config_, length, options, store.banks[0].compute) {
    OSP_CHECK(!(options.cache != nullptr && options.training), "no training through a cache");
    if (options.training) check_trainable(config_);
  }

  // The residual stream between two operations. A branch that is not yet added to it is pending:
  // the next norm adds it in one pass. `ended_block` is the block that it ends, −1 if none.
  struct ResidualStream {
    at::Tensor x, pending_branch;
    int64_t ended_block = -1;
  };

  at::Tensor embedding_lookup(const at::Tensor& tokens_BT) const {
    at::Tensor x = embedding(tokens_BT, parameters_.table(Role::embedding), parameters_.anchor());
    if (config_.embedding_multiplier != 1.0) x = x * config_.embedding_multiplier;
    if (config_.learned_positions) {
      const at::Tensor table = parameters_.table_leaf(Role::position_embedding);
      x = x + positions_.learned(table, tokens_BT.size(1));
    }
    if (config_.embedding_projection) {
      x = parameters_.linear({Role::embedding_projection}, kNoLayer, x, false);
    }
    if (config_.embedding_norm) x = parameters_.norm(Role::embedding_norm, kNoLayer, x).value;
    return tap(TapPoint::embedding, 0, x);
  }

  // One block; its last branch is left pending.
  void block(int64_t layer, ResidualStream& stream) const {
    if (!options_.training)
      leave_if_stopped("a model was running");  // a training step is completed
    const RecomputableInput y = attention_input(layer, stream);
    if (config_.parallel) {
      const RecomputableInput z = config_.shared_norm ? y : mlp_input(layer, stream);
      stream.pending_branch = attention(layer, y) + feed_forward(layer, z);
    } else {
      stream.pending_branch = attention(layer, y);
      stream.pending_branch = feed_forward(layer, mlp_input(layer, stream));
    }
    stream.ended_block = layer;
  }

  // One block of which the graph keeps only the incoming stream; the backward pass runs it again.
  void recomputed_block(int64_t layer, ResidualStream& stream) const {
    const auto run = [pass = shared_from_this(), layer,
                      ended = stream.ended_block](const auto& in) {
      ResidualStream inner{in[0], in.size() > 1 ? in[1] : at::Tensor(), ended};
      pass->block(layer, inner);
      return std::vector<at::Tensor>{inner.x, inner.pending_branch};
    };
    std::vector<at::Tensor> in = {stream.x};
    if (stream.pending_branch.defined()) in.push_back(stream.pending_branch);
    const std::vector<at::Tensor> out = recomputed(in, run);
    stream = {out[0], out[1], layer};
  }

  // The inputs of a block's two branches, not yet seen by the tap; adds the pending branch.
  RecomputableInput attention_input(int64_t layer, ResidualStream& stream) const {
    if (!config_.norm_before()) return add_pending_branch(stream);
    return norm(stream, Role::input_norm, layer);
  }
  RecomputableInput mlp_input(int64_t layer, ResidualStream& stream) const {
    if (!config_.norm_before()) return add_pending_branch(stream);
    return norm(stream, config_.shared_norm ? Role::input_norm : Role::post_attention_norm, layer);
  }

  at::Tensor attention(int64_t layer, const RecomputableInput& y) const {
    return attention_branch(layer,
                            attention_output(layer, tap(TapPoint::attention_input, layer, y)));
  }
  at::Tensor feed_forward(int64_t layer, const RecomputableInput& y) const {
    const ExpertRouting routed = routing(layer, y.value);
    const RecomputableInput seen = tap(TapPoint::mlp_input, layer, y);
    return mlp_branch(layer, mlp_product(layer, seen, routed), routed);
  }

  // The experts of a mixture by the block's input, which no tap has seen; undefined elsewhere.
  ExpertRouting routing(int64_t layer, const at::Tensor& y) const {
    if (!config_.routes(layer)) return {};
    const at::Tensor logits = parameters_.linear({Role::router}, layer, y, config_.expert_bias);
    return route_tokens(logits.flatten(0, -2), y.size(0), config_.experts_per_token,
                        config_.normalized_routing, config_.routing_of_chosen);
  }

  // The input of the output projection, as the tap left it.
  at::Tensor attention_output(int64_t layer, const RecomputableInput& y) const {
    auto [q, k, v] = projections(layer, y);
    // Show them to the tap, as [B, heads, T, K].
    q = tap(TapPoint::query, layer, q.transpose(1, 2)).transpose(1, 2);
    k = tap(TapPoint::key, layer, k.transpose(1, 2)).transpose(1, 2);
    v = tap(TapPoint::value, layer, v.transpose(1, 2)).transpose(1, 2);
    // Attend to this pass's keys, or to all in the cache.
    if (!options_.segments.empty()) return packed_attention(layer, q, k, v);
    if (options_.cache != nullptr) std::tie(k, v) = append_to_cache(layer, k, v);
    at::Tensor out;
    const at::Tensor sinks = parameters_.sinks(layer);
    const auto capped = soft_cap(config_.attention_softcap);
    if (watches_attention_logits(layer)) {
      const at::Tensor mask = positions_.mask(layer, q.size(1), k.size(1), q);
      const auto tapped = [&](const at::Tensor& z) {
        return options_.tap->at(TapPoint::attention_logits, layer, capped ? capped(z) : z);
      };
      out = causal_attention_reference(q, k, v, mask, tapped, sinks);
    } else if (capped) {
      out = causal_attention_reference(q, k, v, positions_.visible(layer).mask, capped, sinks);
    } else {
      out = causal_attention(q, k, v, positions_.visible(layer), sinks);
    }
    return tap(TapPoint::attention_output, layer, out.flatten(2));
  }

  // The attention branch: what is added to the stream.
  at::Tensor attention_branch(int64_t layer, const at::Tensor& output) const {
    const at::Tensor branch =
        parameters_.linear({Role::attention_output}, layer, output, config_.output_bias);
    if (config_.norm_after || config_.norm_around) {
      const Role role = config_.norm_after ? Role::post_attention_norm : Role::attention_end_norm;
      return scaled(parameters_.norm(role, layer, branch).value);
    }
    return scaled(Role::attention_branch_scale, layer, branch);
  }

  // The input of the down projection, as the tap left it.
  RecomputableInput mlp_product(int64_t layer, const RecomputableInput& x,
                                const ExpertRouting& routed) const {
    if (!routed.defined()) return tap(TapPoint::mlp_product, layer, untapped_mlp_product(layer, x));
    return tap(TapPoint::mlp_product, layer,
               expert_products(parameters_, config_, layer, x.value, routed));
  }

  // The feed-forward branch: what is added to the stream.
  at::Tensor mlp_branch(int64_t layer, const RecomputableInput& product,
                        const ExpertRouting& routed) const {
    if (routed.defined())
      return scaled(expert_sum(parameters_, config_, layer, product.value, routed));
    const at::Tensor branch = parameters_.linear({Role::down}, layer, product, config_.mlp_bias);
    if (config_.norm_after || config_.norm_around) {
      return scaled(parameters_.norm(Role::post_feedforward_norm, layer, branch).value);
    }
    return scaled(Role::mlp_branch_scale, layer, branch);
  }

  // Adds the pending branch, if there is one, and returns the stream. Where a block ended, the tap
  // sees the state.
  at::Tensor add_pending_branch(ResidualStream& stream) const {
    if (stream.pending_branch.defined()) stream.x = stream.x + stream.pending_branch;
    stream.pending_branch = at::Tensor();
    if (stream.ended_block >= 0) stream.x = tap(TapPoint::residual, stream.ended_block, stream.x);
    stream.ended_block = -1;
    return stream.x;
  }

  // Final norm and output EmbProj, and the constant factor of the logits.
  at::Tensor final_state(ResidualStream& stream) const {
    const RecomputableInput y =
        tap(TapPoint::final_state, config_.layers, norm(stream, Role::final_norm, kNoLayer));
    const at::Tensor h = config_.embedding_projection
                             ? parameters_.linear({Role::head_projection}, kNoLayer, y, false)
                             : y.value;
    const bool divided = config_.logit_divisor != 1.0;
    return tap(TapPoint::head_input, config_.layers, divided ? h / config_.logit_divisor : h);
  }

  // In the backward pass a pending branch gets its gradient when the sum that it is a part of has
  // got that of all its readers: the block behind it is over.
  void tell_when_done(int64_t layer, const ResidualStream& stream) const {
    if (!options_.blocks_done || !stream.pending_branch.requires_grad()) return;
    stream.pending_branch.register_hook(
        [done = options_.blocks_done, layer](const at::Tensor& /*gradient*/) { done(layer); });
  }

  at::Tensor hidden(const at::Tensor& tokens_BT) const {
    ResidualStream stream{embedding_lookup(tokens_BT), {}};
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      tell_when_done(layer, stream);
      options_.recompute_blocks ? recomputed_block(layer, stream) : block(layer, stream);
    }
    const at::Tensor h = final_state(stream);
    if (options_.cache != nullptr && options_.segments.empty()) {
      options_.cache->length += tokens_BT.size(1);
    }
    return h;
  }

  // fp32 logits (fp64 of a model in fp64).
  at::Tensor logits(const at::Tensor& h, bool fast = false) const {
    const at::Tensor z = fast ? fast_linear(h, head().value) : linear(h, head());
    const at::Tensor wide = z.scalar_type() == at::kDouble ? z : z.to(at::kFloat);
    const auto capped = soft_cap(config_.logit_softcap);
    return capped ? capped(wide) : wide;
  }

  // The head's weight: its own table, or the embedding's.
  WeightRef head() const { return parameters_.table(config_.tied ? Role::embedding : Role::head); }

  at::Tensor tap(TapPoint point, int64_t layer, const at::Tensor& x) const {
    if (options_.tap == nullptr || !options_.tap->wants(point, layer)) return x;
    return options_.tap->at(point, layer, x);
  }
  // A tensor that the tap replaced can no longer be computed from its operands.
  RecomputableInput tap(TapPoint point, int64_t layer, const RecomputableInput& x) const {
    const at::Tensor seen = tap(point, layer, x.value);
    return seen.is_same(x.value) ? x : RecomputableInput(seen);
  }

 private:
  // A branch times the constant factor of all branches, and its scalar, if there are such.
  at::Tensor scaled(const at::Tensor& branch) const {
    return config_.residual_multiplier == 1.0 ? branch : branch * config_.residual_multiplier;
  }
  at::Tensor scaled(Role role, int64_t layer, const at::Tensor& branch) const {
    return scaled(config_.branch_scale ? scale_branch(branch, parameters_.scalar(role, layer))
                                       : branch);
  }

  RecomputableInput untapped_mlp_product(int64_t layer, const RecomputableInput& x) const {
    if (!config_.gated) {
      return activation(parameters_.linear({Role::up}, layer, x, config_.mlp_bias),
                        config_.activation);
    }
    return gated_product(parameters_.linear({Role::gate, Role::up}, layer, x, config_.mlp_bias),
                         config_);
  }

  // Adds the pending branch and returns the norm of the sum. Where the sum is the state after a
  // block, the tap sees it; if the tap replaces it, the norm is computed anew.
  RecomputableInput norm(ResidualStream& stream, Role role, int64_t layer) const {
    if (!stream.pending_branch.defined()) {
      return parameters_.norm(role, layer, add_pending_branch(stream));
    }
    const auto [sum, y] = parameters_.add_norm(role, layer, stream.x, stream.pending_branch);
    stream.x = sum;
    stream.pending_branch = at::Tensor();
    const bool replaced = !add_pending_branch(stream).is_same(sum);  // by the tap
    return replaced ? parameters_.norm(role, layer, stream.x) : y;
  }

  bool watches_attention_logits(int64_t layer) const {
    return options_.tap != nullptr && options_.tap->wants(TapPoint::attention_logits, layer);
  }

  // Attention of packed tokens, [1, N, heads, K] each; the result is the output projection's input.
  at::Tensor packed_attention(int64_t layer, const at::Tensor& q, const at::Tensor& k,
                              const at::Tensor& v) const {
    OSP_CHECK(!watches_attention_logits(layer), "packed tokens have no attention logits to tap");
    at::Tensor keys = k[0], values = v[0];
    if (options_.cache != nullptr) {
      keys = store_packed(options_.cache->keys[layer], keys);
      values = store_packed(options_.cache->values[layer], values);
    }
    const at::Tensor out =
        segment_attention(q[0], keys, values, options_.segments, config_.window_of(layer),
                          config_.attention_softcap, parameters_.sinks(layer));
    return tap(TapPoint::attention_output, layer, out.flatten(1).unsqueeze(0));
  }

  // Writes [N, Hkv, K] to the segments' slots and returns the whole cache, [capacity, Hkv, K].
  at::Tensor store_packed(const at::Tensor& held, const at::Tensor& fresh_NHK) const {
    const at::Tensor rows = held[0].transpose(0, 1);
    int64_t token = 0;
    for (const Segment& segment : options_.segments) {
      rows.narrow(0, segment.slot, segment.length)
          .copy_(fresh_NHK.narrow(0, token, segment.length));
      token += segment.length;
    }
    return rows;
  }

  // Queries, keys and values [B, T, heads, K] of a block's input.
  std::tuple<at::Tensor, at::Tensor, at::Tensor> projections(int64_t layer,
                                                             const RecomputableInput& x) const {
    const int64_t B = x.value.size(0), T = x.value.size(1), H = config_.heads,
                  Hkv = config_.kv_heads, K = config_.head_size;
    at::Tensor qkv =
        parameters_.linear({Role::query, Role::key, Role::value}, layer, x, config_.qkv_bias);
    // OLMo clips what the projections give, OLMoE queries and keys behind their norms.
    const bool clips_late = config_.qk_norm && config_.qk_norm_wide;
    if (config_.clip_qkv > 0 && !clips_late) qkv = clipped(qkv);
    const bool rotates = config_.rotates(layer), fused = rotates && config_.rotary_size == K;
    // Most models: split and rotate in one pass.
    if (!config_.qk_norm && fused) {
      const auto [q, k, v] = positions_.split_rotated(layer, qkv);
      return {positions_.scaled_queries(q), k, v};
    }
    // The others: norms over all heads or per head, then the rotation of a part or nothing.
    at::Tensor q = qkv.narrow(2, 0, H * K), k = qkv.narrow(2, H * K, Hkv * K);
    if (config_.qk_norm && config_.qk_norm_wide) {
      q = parameters_.norm(Role::query_norm, layer, q).value;
      k = parameters_.norm(Role::key_norm, layer, k).value;
    }
    q = q.reshape({B, T, H, K});
    k = k.reshape({B, T, Hkv, K});
    if (config_.qk_norm && !config_.qk_norm_wide) {
      q = parameters_.norm(Role::query_norm, layer, q).value;
      k = parameters_.norm(Role::key_norm, layer, k).value;
    }
    at::Tensor v = qkv.narrow(2, (H + Hkv) * K, Hkv * K).view({B, T, Hkv, K});
    if (config_.clip_qkv > 0 && clips_late) {
      q = clipped(q);
      k = clipped(k);
      v = clipped(v);
    }
    if (rotates) q = positions_.rotated(layer, q);
    if (rotates) k = positions_.rotated(layer, k);
    return {positions_.scaled_queries(q), k, v};
  }

  at::Tensor clipped(const at::Tensor& x) const {
    return x.clamp(-config_.clip_qkv, config_.clip_qkv);
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

  const ModelConfig& config_;
  const ForwardOptions options_;
  ParameterAccess parameters_;
  PassPositions positions_;
};

namespace {

int64_t length_of(const at::Tensor& tokens_BT) {
  OSP_CHECK(tokens_BT.dim() == 2 && tokens_BT.scalar_type() == at::kLong, "tokens are [B, T]");
  return tokens_BT.size(1);
}

}  // namespace

at::Tensor forward_embedding(const ParameterStore& store, const at::Tensor& tokens_BT,
                             const ForwardOptions& options) {
  const at::AutoGradMode mode(options.training);
  return ForwardPass(store, length_of(tokens_BT), options).embedding_lookup(tokens_BT);
}

at::Tensor forward_block(const ParameterStore& store, int64_t layer, const at::Tensor& x_BTD,
                         const ForwardOptions& options) {
  OSP_CHECK(layer >= 0 && layer < store.config.layers, "the model has no block {}", layer);
  const at::AutoGradMode mode(options.training);
  const ForwardPass pass(store, x_BTD.size(1), options);
  ForwardPass::ResidualStream stream{x_BTD, {}};
  pass.block(layer, stream);
  return pass.add_pending_branch(stream);
}

BlockPieces::BlockPieces(const ParameterStore& store, int64_t layer, int64_t length,
                         const ForwardOptions& options)
    : layer_(layer),
      routes_(store.config.routes(layer)),
      pass_(std::make_unique<ForwardPass>(store, length, options)) {
  OSP_CHECK(!options.training, "pieces of a block have no gradients");
}

BlockPieces::~BlockPieces() = default;

at::Tensor BlockPieces::attention_input(const at::Tensor& x_BTD) const {
  ForwardPass::ResidualStream stream{x_BTD, {}};
  return pass_->tap(TapPoint::attention_input, layer_, pass_->attention_input(layer_, stream))
      .value;
}

at::Tensor BlockPieces::attention_output(const at::Tensor& input_BTD) const {
  return pass_->attention_output(layer_, input_BTD);
}

at::Tensor BlockPieces::attention_branch(const at::Tensor& output) const {
  return pass_->attention_branch(layer_, output);
}

at::Tensor BlockPieces::mlp_input(const at::Tensor& x_BTD) const {
  ForwardPass::ResidualStream stream{x_BTD, {}};
  return pass_->tap(TapPoint::mlp_input, layer_, pass_->mlp_input(layer_, stream)).value;
}

ExpertRouting BlockPieces::routing(const at::Tensor& x_BTD) const {
  if (!routes_) return {};
  ForwardPass::ResidualStream stream{x_BTD, {}};
  return pass_->routing(layer_, pass_->mlp_input(layer_, stream).value);
}

at::Tensor BlockPieces::mlp_product(const at::Tensor& input_BTD,
                                    const ExpertRouting& routing) const {
  return pass_->mlp_product(layer_, input_BTD, routing).value;
}

at::Tensor BlockPieces::mlp_branch(const at::Tensor& product, const ExpertRouting& routing) const {
  return pass_->mlp_branch(layer_, product, routing);
}

at::Tensor forward_head(const ParameterStore& store, const at::Tensor& x_BTD,
                        const ForwardOptions& options) {
  const at::AutoGradMode mode(options.training);
  const ForwardPass pass(store, x_BTD.size(1), options);
  ForwardPass::ResidualStream stream{x_BTD, {}};
  return pass.logits(pass.final_state(stream));
}

at::Tensor forward_hidden(const ParameterStore& store, const at::Tensor& tokens_BT,
                          const ForwardOptions& options) {
  if (ForwardEngine* engine = engine_of(options.tap)) return engine->hidden(tokens_BT, options);
  const at::AutoGradMode mode(options.training);
  return std::make_shared<const ForwardPass>(store, length_of(tokens_BT), options)
      ->hidden(tokens_BT);
}

at::Tensor forward_logits(const ParameterStore& store, const at::Tensor& tokens_BT,
                          const ForwardOptions& options) {
  if (ForwardEngine* engine = engine_of(options.tap)) {
    return engine->logits(engine->hidden(tokens_BT, options));
  }
  const at::AutoGradMode mode(options.training);
  const auto pass = std::make_shared<const ForwardPass>(store, length_of(tokens_BT), options);
  return pass->logits(pass->hidden(tokens_BT));
}

at::Tensor logits_of_hidden(const ParameterStore& store, const at::Tensor& hidden, Tap* tap,
                            bool fast) {
  if (ForwardEngine* engine = engine_of(tap)) return engine->logits(hidden);
  ForwardOptions options;
  options.tap = tap;
  return ForwardPass(store, 1, options).logits(hidden, fast);
}

at::Tensor forward_loss_sum(const ParameterStore& store, const at::Tensor& tokens_BT,
                            const at::Tensor& targets_BT, const ForwardOptions& options,
                            double loss_scale) {
  if (ForwardEngine* engine = engine_of(options.tap)) {
    return engine->loss_sum(engine->hidden(tokens_BT, options).flatten(0, 1), targets_BT.flatten(),
                            loss_scale);
  }
  const at::AutoGradMode mode(options.training);
  const auto pass = std::make_shared<const ForwardPass>(store, length_of(tokens_BT), options);
  return linear_cross_entropy(pass->hidden(tokens_BT).flatten(0, 1), pass->head(),
                              targets_BT.flatten(), loss_scale, options.training,
                              store.config.logit_softcap);
}

}  // namespace osp
