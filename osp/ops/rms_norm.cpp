#include "osp/ops/rms_norm.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "osp/ops/dispatch.h"

namespace osp {

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& gain, double eps) {
  const at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  at::Tensor y = wide * at::rsqrt((wide * wide).mean(-1, true) + eps);
  if (gain.defined()) y = y * gain;
  return y.to(x.scalar_type());
}

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

// A gain as a tensor whose gradient reaches the sum of WeightRef wherever the graph goes on from x.
at::Tensor leaf_of(const WeightRef& gain, const at::Tensor& x) {
  return gain.gradient.defined() && x.requires_grad() ? weight_leaf(gain, x) : gain.value;
}

}  // namespace

RecomputableInput rms_norm(const at::Tensor& x, const WeightRef& gain, double eps) {
  if (!has_kernels(x)) return rms_norm_reference(x, leaf_of(gain, x), eps);
  const at::Tensor r = x.contiguous();
  const auto out = RmsNorm::apply(r, gain, eps);
  return {out[0], RecomputableInput::Origin::rms_norm, {r, out[1], gain.value}};
}

std::tuple<at::Tensor, RecomputableInput> add_rms_norm(const at::Tensor& x,
                                                       const at::Tensor& branch,
                                                       const WeightRef& gain, double eps) {
  if (!has_kernels(x)) {
    const at::Tensor r = x + branch;
    return {r, rms_norm_reference(r, leaf_of(gain, r), eps)};
  }
  const auto out = AddRmsNorm::apply(x.contiguous(), branch.contiguous(), gain, eps);
  return {out[0], {out[1], RecomputableInput::Origin::rms_norm, {out[0], out[2], gain.value}}};
}

at::Tensor rms_norm_again(const at::Tensor& residual, const at::Tensor& inverse_rms,
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

}  // namespace osp
