#include "osp/ops/attention.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cummax.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <limits>

#include "osp/base/error.h"
#include "osp/ops/fused_attention.h"

namespace osp {
namespace {

// [B, H, S, K] with every key/value head repeated for its group of query heads.
at::Tensor expand_heads(const at::Tensor& x_BSHK, int64_t query_heads) {
  const int64_t repeat = query_heads / x_BSHK.size(2);
  const at::Tensor x = repeat == 1 ? x_BSHK : x_BSHK.repeat_interleave(repeat, 2);
  return x.transpose(1, 2);
}

// True where query t (of T) must not see key s (of S).
at::Tensor future_mask(int64_t T, int64_t S, const at::Device& device) {
  const auto options = at::TensorOptions().dtype(at::kLong).device(device);
  return at::arange(S, options).unsqueeze(0) > (at::arange(T, options) + (S - T)).unsqueeze(1);
}

}  // namespace

at::Tensor document_mask(const at::Tensor& documents_BT, at::ScalarType type) {
  const int64_t T = documents_BT.size(1);
  const at::Tensor hidden =
      future_mask(T, T, documents_BT.device())
          .unsqueeze(0)
          .logical_or(documents_BT.unsqueeze(1).ne(documents_BT.unsqueeze(2)));
  return at::zeros({documents_BT.size(0), 1, T, T}, documents_BT.options().dtype(type))
      .masked_fill_(hidden.unsqueeze(1), -std::numeric_limits<double>::infinity());
}

at::Tensor window_mask(int64_t queries, int64_t keys, int64_t window, const at::Tensor& like) {
  const auto integers = at::TensorOptions().dtype(at::kLong).device(like.device());
  const at::Tensor key = at::arange(keys, integers).unsqueeze(0);
  const at::Tensor query = (at::arange(queries, integers) + (keys - queries)).unsqueeze(1);
  return at::zeros({1, 1, queries, keys}, like.options())
      .masked_fill_((key > query).logical_or(key <= query - window),
                    -std::numeric_limits<double>::infinity());
}

at::Tensor first_keys(const at::Tensor& documents_BT, int64_t length, int64_t window) {
  at::Tensor first;
  const at::Tensor position = at::arange(length, at::kLong).unsqueeze(0);
  if (documents_BT.defined()) {
    const at::Tensor begins =
        at::cat({at::ones({documents_BT.size(0), 1}, at::kBool),
                 documents_BT.narrow(1, 1, length - 1).ne(documents_BT.narrow(1, 0, length - 1))},
                1);
    first = std::get<0>(at::cummax(position * begins, 1));
  }
  if (window > 0 && length > window) {
    const at::Tensor newest = (position - (window - 1)).clamp_min(0);
    first = first.defined() ? at::maximum(first, newest) : newest;
  }
  return first.defined() ? first.to(at::kInt).contiguous() : first;
}

at::Tensor causal_attention(const at::Tensor& q_BTHK, const at::Tensor& k_BSHK,
                            const at::Tensor& v_BSHK, const VisibleKeys& visible,
                            const at::Tensor& sinks_H) {
  const int64_t T = q_BTHK.size(1), S = k_BSHK.size(1), H = q_BTHK.size(2);
  const bool square = T == S, sinks = sinks_H.defined();
  const at::Tensor& mask = visible.mask;
  // A token by itself attends to itself alone.
  if (square && T == 1 && !sinks && !at::GradMode::is_enabled()) {
    return expand_heads(v_BSHK, H).transpose(1, 2).contiguous();
  }
  if (square && !mask.defined() && !sinks && has_fused_attention(q_BTHK)) {
    return fused_attention(q_BTHK, k_BSHK, v_BSHK, visible.first_BT);
  }
  OSP_CHECK(!visible.first_BT.defined(), "a mask is needed where attention is not fused");
  if ((!square && T > 1) || (sinks && !q_BTHK.device().is_cpu())) {
    return causal_attention_reference(q_BTHK, k_BSHK, v_BSHK, mask, {}, sinks_H);
  }
  const std::optional<at::Tensor> additive =
      mask.defined() ? std::optional<at::Tensor>(mask) : std::nullopt;
  if (!q_BTHK.device().is_cpu()) {
    return at::scaled_dot_product_attention(q_BTHK.transpose(1, 2), expand_heads(k_BSHK, H),
                                            expand_heads(v_BSHK, H), additive, 0.0,
                                            square && !mask.defined())
        .transpose(1, 2);
  }
  const auto [out, log_sum] = at::_scaled_dot_product_flash_attention_for_cpu(
      q_BTHK.transpose(1, 2), expand_heads(k_BSHK, H), expand_heads(v_BSHK, H), 0.0,
      square && !mask.defined(), additive);
  if (!sinks) return out.transpose(1, 2);
  const at::Tensor share = share_of_keys(log_sum, sinks_H.view({1, H, 1}));
  return (out * share.unsqueeze(-1).to(out.scalar_type())).transpose(1, 2);
}

at::Tensor share_of_keys(const at::Tensor& log_sum, const at::Tensor& sinks) {
  return (log_sum - sinks).sigmoid();
}

at::Tensor causal_attention_reference(const at::Tensor& q_BTHK, const at::Tensor& k_BSHK,
                                      const at::Tensor& v_BSHK, const at::Tensor& mask,
                                      const std::function<at::Tensor(const at::Tensor&)>& on_logits,
                                      const at::Tensor& sinks_H) {
  const int64_t T = q_BTHK.size(1), S = k_BSHK.size(1), H = q_BTHK.size(2), K = q_BTHK.size(3);
  const at::ScalarType wide = q_BTHK.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor q = q_BTHK.transpose(1, 2).to(wide);
  const at::Tensor k = expand_heads(k_BSHK, H).to(wide), v = expand_heads(v_BSHK, H).to(wide);
  at::Tensor logits = at::matmul(q, k.transpose(2, 3)) / std::sqrt(static_cast<double>(K));
  if (on_logits) logits = on_logits(logits);
  logits = mask.defined() ? logits + mask.to(wide)
                          : logits.masked_fill(future_mask(T, S, q.device()),
                                               -std::numeric_limits<double>::infinity());
  if (sinks_H.defined()) {
    const at::Tensor sink = sinks_H.to(wide).view({1, H, 1, 1}).expand({q.size(0), H, T, 1});
    logits = at::softmax(at::cat({logits, sink}, -1), -1).narrow(-1, 0, S);
  } else {
    logits = at::softmax(logits, -1);
  }
  return at::matmul(logits, v).transpose(1, 2).to(q_BTHK.scalar_type());
}

std::function<at::Tensor(const at::Tensor&)> soft_cap(double cap) {
  if (cap <= 0) return {};
  return [cap](const at::Tensor& z) { return at::tanh(z / cap) * cap; };
}

}  // namespace osp
