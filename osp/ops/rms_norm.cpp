#include "osp/ops/fused.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

#include "osp/base/error.h"
#include "osp/ops/dispatch.h"

namespace osp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Rows whose partial gain gradients are summed before the next block: fixed, so that the sum does
// not depend on the number of threads.
constexpr int64_t kGainBlockRows = 128;

const float* gain_data(const at::Tensor& gain) {
  return gain.defined() ? gain.const_data_ptr<float>() : nullptr;
}

int64_t gain_stride(const at::Tensor& gain) { return gain.defined() && gain.numel() > 1 ? 1 : 0; }

struct NormResult {
  at::Tensor residual, y, inverse_rms;
};

// What norm_forward gave as y, from what it left.
at::Tensor norm_again(const at::Tensor& residual, const at::Tensor& inverse_rms,
                      const at::Tensor& gain) {
  RECORD_USER_SCOPE("osp::rms_norm");
  const int64_t D = residual.size(-1), rows = residual.numel() / D;
  at::Tensor y = at::empty_like(residual);
  dispatch(residual, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, rows, row_grain(D), [&](int64_t begin, int64_t end) {
      k.rms_norm_again(data<T>(residual) + begin * D, inverse_rms.const_data_ptr<float>() + begin,
                       gain_data(gain), gain_stride(gain), mutable_data<T>(y) + begin * D,
                       end - begin, D);
    });
  });
  return y;
}

NormResult norm_forward(const at::Tensor& x, const at::Tensor& branch, const at::Tensor& gain,
                        double eps) {
  RECORD_USER_SCOPE("osp::rms_norm");
  const int64_t D = x.size(-1), rows = x.numel() / D;
  NormResult out{branch.defined() ? at::empty_like(x) : x, at::empty_like(x),
                 at::empty({rows}, at::TensorOptions().dtype(at::kFloat))};
  dispatch(x, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, rows, row_grain(D), [&](int64_t begin, int64_t end) {
      const int64_t at = begin * D;
      k.rms_norm_forward(data<T>(x) + at, branch.defined() ? data<T>(branch) + at : nullptr,
                         branch.defined() ? mutable_data<T>(out.residual) + at : nullptr,
                         mutable_data<T>(out.y) + at,
                         out.inverse_rms.mutable_data_ptr<float>() + begin, gain_data(gain),
                         gain_stride(gain), end - begin, D, static_cast<float>(eps));
    });
  });
  return out;
}

// d_residual may be undefined. Adds the gain's gradient into gain.gradient.
at::Tensor norm_backward(const at::Tensor& residual, const at::Tensor& inverse_rms,
                         const WeightRef& gain, const at::Tensor& dy,
                         const at::Tensor& d_residual) {
  const int64_t D = residual.size(-1), rows = residual.numel() / D;
  const int64_t blocks = (rows + kGainBlockRows - 1) / kGainBlockRows;
  at::Tensor dx = at::empty_like(residual);
  const bool wants_gain = gain.value.defined() && gain.gradient.defined();
  const int64_t gains = wants_gain ? gain.value.numel() : 0;
  at::Tensor partial = at::zeros({blocks, gains}, at::TensorOptions().dtype(at::kFloat));
  dispatch(residual, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        const int64_t first = block * kGainBlockRows;
        const int64_t count = std::min(kGainBlockRows, rows - first), at = first * D;
        k.rms_norm_backward(
            data<T>(residual) + at, inverse_rms.const_data_ptr<float>() + first,
            gain_data(gain.value), gain_stride(gain.value), data<T>(dy) + at,
            d_residual.defined() ? data<T>(d_residual) + at : nullptr, mutable_data<T>(dx) + at,
            wants_gain ? partial.mutable_data_ptr<float>() + block * gains : nullptr, count, D);
      }
    });
  });
  if (wants_gain) gain.gradient.view(-1).add_(partial.sum(0));
  return dx;
}

// Gives (y, inverse_rms).
struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const WeightRef& gain,
                               double eps) {
    const NormResult out = norm_forward(x, {}, gain.value, eps);
    ctx->save_for_backward({x, out.inverse_rms, gain.value});
    ctx->saved_data["gain_gradient"] = gain.gradient;
    ctx->mark_non_differentiable({out.inverse_rms});
    return {out.y, out.inverse_rms};
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto saved = ctx->get_saved_variables();
    const WeightRef gain{saved[2], ctx->saved_data["gain_gradient"].toTensor()};
    return {norm_backward(saved[0], saved[1], gain, d[0].contiguous(), {}), {}, {}};
  }
};

// Gives (residual, y, inverse_rms).
struct AddRmsNorm : torch::autograd::Function<AddRmsNorm> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& branch,
                               const WeightRef& gain, double eps) {
    const NormResult out = norm_forward(x, branch, gain.value, eps);
    ctx->save_for_backward({out.residual, out.inverse_rms, gain.value});
    ctx->saved_data["gain_gradient"] = gain.gradient;
    ctx->mark_non_differentiable({out.inverse_rms});
    return {out.residual, out.y, out.inverse_rms};
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto saved = ctx->get_saved_variables();
    const WeightRef gain{saved[2], ctx->saved_data["gain_gradient"].toTensor()};
    const at::Tensor pass = d[0].defined() ? d[0].contiguous() : at::Tensor();
    const at::Tensor dx =
        d[1].defined() ? norm_backward(saved[0], saved[1], gain, d[1].contiguous(), pass) : pass;
    return {dx, dx, {}, {}};
  }
};

at::Tensor swiglu_forward(const at::Tensor& gate_up) {
  RECORD_USER_SCOPE("osp::swiglu");
  const int64_t F = gate_up.size(-1) / 2, rows = gate_up.numel() / (2 * F);
  auto shape = gate_up.sizes().vec();
  shape.back() = F;
  at::Tensor out = at::empty(shape, gate_up.options());
  dispatch(gate_up, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, rows, row_grain(F), [&](int64_t begin, int64_t end) {
      k.swiglu_forward(data<T>(gate_up) + begin * 2 * F, mutable_data<T>(out) + begin * F,
                       end - begin, F);
    });
  });
  return out;
}

// The gradient of [gate | up], and into `out`, if defined, what swiglu_forward gave.
at::Tensor swiglu_backward(const at::Tensor& gate_up, const at::Tensor& d_out, at::Tensor out) {
  RECORD_USER_SCOPE("osp::swiglu_backward");
  const int64_t F = d_out.size(-1), rows = d_out.numel() / F;
  at::Tensor d_gate_up = at::empty_like(gate_up);
  dispatch(gate_up, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, rows, row_grain(F), [&](int64_t begin, int64_t end) {
      k.swiglu_backward(data<T>(gate_up) + begin * 2 * F, data<T>(d_out) + begin * F,
                        mutable_data<T>(d_gate_up) + begin * 2 * F,
                        out.defined() ? mutable_data<T>(out) + begin * F : nullptr, end - begin, F);
    });
  });
  return d_gate_up;
}

struct Swiglu : torch::autograd::Function<Swiglu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up) {
    ctx->save_for_backward({gate_up});
    return swiglu_forward(gate_up);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    return {swiglu_backward(ctx->get_saved_variables()[0], d[0].contiguous(), {})};
  }
};

// Two-dimensional view of a tensor's last dimension.
at::Tensor rows_of(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

// x Wᵀ with the shape of x but for the last dimension.
at::Tensor product(const at::Tensor& x, const at::Tensor& w) {
  auto shape = x.sizes().vec();
  shape.back() = w.size(0);
  return at::mm(rows_of(x), w.t()).view(shape);
}

// The gradient of a product's x, in its shape.
at::Tensor product_backward(const at::Tensor& dy, const at::Tensor& w) {
  auto shape = dy.sizes().vec();
  shape.back() = w.size(1);
  return at::mm(rows_of(dy), w).view(shape);
}

void accumulate_product(const at::Tensor& gradient, const at::Tensor& dy, const at::Tensor& x) {
  if (gradient.defined()) accumulate(gradient, at::mm(rows_of(dy).t(), rows_of(x)));
}

struct Linear : torch::autograd::Function<Linear> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const WeightRef& weight) {
    ctx->save_for_backward({x, weight.value});
    ctx->saved_data["gradient"] = weight.gradient;
    return product(x, weight.value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto kept = ctx->get_saved_variables();
    accumulate_product(ctx->saved_data["gradient"].toTensor(), d[0], kept[0]);
    return {product_backward(d[0], kept[1]), {}};
  }
};

// What a norm's result is made from again. Autograd takes no tensors inside a struct for its own.
struct NormOperands {
  at::Tensor residual, inverse_rms, gain;
};

// linear(x) where x is the result of a norm, which is not kept.
struct LinearOfNorm : torch::autograd::Function<LinearOfNorm> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const NormOperands& of,
                            const WeightRef& weight) {
    ctx->save_for_backward({of.residual, of.inverse_rms, of.gain, weight.value});
    ctx->saved_data["gradient"] = weight.gradient;
    return product(x, weight.value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto kept = ctx->get_saved_variables();
    accumulate_product(ctx->saved_data["gradient"].toTensor(), d[0],
                       norm_again(kept[0], kept[1], kept[2]));
    return {product_backward(d[0], kept[3]), {}, {}};
  }
};

// What swiglu gave, beside the graph.
struct SwigluResult {
  at::Tensor value;
};

// linear(swiglu(gate_up)): one pass of the backward gives the gradient of gate_up and the linear
// layer's input again.
struct LinearOfSwiglu : torch::autograd::Function<LinearOfSwiglu> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& gate_up, const SwigluResult& x,
                            const WeightRef& weight) {
    ctx->save_for_backward({gate_up, weight.value});
    ctx->saved_data["gradient"] = weight.gradient;
    return product(x.value, weight.value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto kept = ctx->get_saved_variables();
    const at::Tensor d_x = product_backward(d[0], kept[1]), x = at::empty_like(d_x);
    const at::Tensor d_gate_up = swiglu_backward(kept[0], d_x, x);
    accumulate_product(ctx->saved_data["gradient"].toTensor(), d[0], x);
    return {d_gate_up, {}, {}};
  }
};

// table[ids] with the shape of ids and one more dimension.
at::Tensor rows_of_ids(const at::Tensor& ids, const at::Tensor& table) {
  auto shape = ids.sizes().vec();
  shape.push_back(table.size(1));
  return table.index_select(0, ids.reshape({-1})).view(shape);
}

struct Embedding : torch::autograd::Function<Embedding> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*anchor*/,
                            const at::Tensor& ids, const WeightRef& table) {
    ctx->save_for_backward({ids});
    ctx->saved_data["gradient"] = table.gradient;
    return rows_of_ids(ids, table.value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const at::Tensor ids = ctx->get_saved_variables()[0].contiguous();
    const at::Tensor gradient = ctx->saved_data["gradient"].toTensor(), dx = d[0].contiguous();
    if (!gradient.defined()) return {{}, {}, {}};
    if (!has_kernels(dx)) {
      gradient.add_(at::embedding_dense_backward(dx.to(gradient.scalar_type()), ids,
                                                 gradient.size(0), -1, false));
      return {{}, {}, {}};
    }
    const int64_t D = gradient.size(1), N = ids.numel();
    const int64_t* id = ids.const_data_ptr<int64_t>();
    float* sum = gradient.mutable_data_ptr<float>();
    constexpr int64_t kColumns = 64;  // each thread owns columns, so the order of the sums is fixed
    dispatch(dx, [&]<class T>(const kernels::TypedKernels<T>& k) {
      at::parallel_for(0, (D + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * kColumns, count = std::min(end * kColumns, D) - first;
        for (int64_t n = 0; n < N; ++n) {
          k.accumulate(sum + id[n] * D + first, data<T>(dx) + n * D + first, count);
        }
      });
    });
    return {{}, {}, {}};
  }
};

struct WeightLeaf : torch::autograd::Function<WeightLeaf> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*anchor*/,
                            const WeightRef& weight) {
    ctx->saved_data["gradient"] = weight.gradient;
    return weight.value.detach();
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const at::Tensor gradient = ctx->saved_data["gradient"].toTensor();
    if (gradient.defined()) accumulate(gradient, d[0].contiguous());
    return {{}, {}};
  }
};

// A gain as a tensor whose gradient reaches the sum of WeightRef wherever the graph goes on from x.
at::Tensor leaf_of(const WeightRef& gain, const at::Tensor& x) {
  return gain.gradient.defined() && x.requires_grad() ? weight_leaf(gain, x) : gain.value;
}

}  // namespace

Activation rms_norm(const at::Tensor& x, const WeightRef& gain, double eps) {
  if (!has_kernels(x)) return rms_norm_reference(x, leaf_of(gain, x), eps);
  const at::Tensor r = x.contiguous();
  const auto out = RmsNorm::apply(r, gain, eps);
  return {out[0], Activation::Origin::rms_norm, {r, out[1], gain.value}};
}

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& gain, double eps) {
  const at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  at::Tensor y = wide * at::rsqrt((wide * wide).mean(-1, true) + eps);
  if (gain.defined()) y = y * gain;
  return y.to(x.scalar_type());
}

std::tuple<at::Tensor, Activation> add_rms_norm(const at::Tensor& x, const at::Tensor& branch,
                                                const WeightRef& gain, double eps) {
  if (!has_kernels(x)) {
    const at::Tensor r = x + branch;
    return {r, rms_norm_reference(r, leaf_of(gain, r), eps)};
  }
  const auto out = AddRmsNorm::apply(x.contiguous(), branch.contiguous(), gain, eps);
  return {out[0], {out[1], Activation::Origin::rms_norm, {out[0], out[2], gain.value}}};
}

Activation swiglu(const at::Tensor& gate_up) {
  if (!has_kernels(gate_up)) return swiglu_reference(gate_up);
  const at::Tensor whole = gate_up.contiguous();
  return {Swiglu::apply(whole), Activation::Origin::swiglu, {whole}};
}

at::Tensor swiglu_reference(const at::Tensor& gate_up) {
  const auto halves = gate_up.chunk(2, -1);
  return at::silu(halves[0]) * halves[1];
}

at::Tensor linear(const Activation& x, const WeightRef& weight) {
  const auto& of = x.operands;
  switch (x.origin) {
    case Activation::Origin::rms_norm:
      return LinearOfNorm::apply(x.value, NormOperands{of[0], of[1], of[2]}, weight);
    case Activation::Origin::swiglu:
      return LinearOfSwiglu::apply(of[0], SwigluResult{x.value}, weight);
    default:
      return Linear::apply(x.value, weight);
  }
}

at::Tensor embedding(const at::Tensor& ids, const WeightRef& table, const at::Tensor& anchor) {
  if (!anchor.defined()) return rows_of_ids(ids, table.value);
  return Embedding::apply(anchor, ids, table);
}

at::Tensor weight_leaf(const WeightRef& weight, const at::Tensor& anchor) {
  return WeightLeaf::apply(anchor, weight);
}

void accumulate(const at::Tensor& sum, const at::Tensor& x) {
  RECORD_USER_SCOPE("osp::accumulate");
  OSP_CHECK(sum.is_contiguous() && sum.numel() == x.numel(), "{} sums of {} values", sum.numel(),
            x.numel());
  if (!has_kernels(x)) {
    sum.add_(x.view(sum.sizes()));
    return;
  }
  const at::Tensor values = x.contiguous();
  dispatch(values, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, values.numel(), 1 << 14, [&](int64_t begin, int64_t end) {
      k.accumulate(sum.mutable_data_ptr<float>() + begin, data<T>(values) + begin, end - begin);
    });
  });
}

}  // namespace osp
