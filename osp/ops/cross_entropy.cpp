#include "osp/ops/cross_entropy.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/tanh.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/ops/dispatch.h"
#include "osp/ops/log_probabilities.h"

namespace osp {

at::Tensor linear_cross_entropy_reference(const at::Tensor& h_ND, const at::Tensor& weight,
                                          const at::Tensor& targets_N) {
  const at::Tensor logits = at::mm(h_ND, weight.t());
  const at::Tensor wide = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  const at::Tensor log_p = at::log_softmax(wide, -1);
  const at::Tensor scored = targets_N.ge(0);
  const at::Tensor picked = log_p.gather(1, targets_N.clamp_min(0).unsqueeze(1)).squeeze(1);
  return -(picked * scored).sum();
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// About 4 M logits at a time (8 MB in bf16), but never fewer rows than keep the product efficient.
int64_t chunk_rows(int64_t rows, int64_t vocabulary) {
  return std::min(rows, std::max<int64_t>(256, (int64_t{1} << 22) / vocabulary));
}

// The chunk by the tensor library's operators, for devices and types without kernels.
void cross_entropy_chunk_reference(const at::Tensor& logits, const at::Tensor& targets,
                                   const at::Tensor& losses, bool write_gradient, double scale) {
  const at::Tensor log_p = log_probabilities(logits.to(losses.scalar_type()));
  const at::Tensor scored = targets.ge(0).unsqueeze(1);
  const at::Tensor column = targets.clamp_min(0).unsqueeze(1);
  losses.unsqueeze(1).copy_(-(log_p.gather(1, column) * scored));
  if (!write_gradient) return;
  at::Tensor gradient = log_p.exp();
  gradient.scatter_add_(1, column, at::full_like(column, -1, gradient.options()));
  logits.copy_(gradient * scored * scale);
}

// Losses of some rows; with write_gradient the logits become their own gradient.
void cross_entropy_chunk(const at::Tensor& logits, const at::Tensor& targets,
                         const at::Tensor& losses, bool write_gradient, double scale) {
  RECORD_USER_SCOPE("osp::cross_entropy");
  if (!has_kernels(logits)) {
    cross_entropy_chunk_reference(logits, targets, losses, write_gradient, scale);
    return;
  }
  const int64_t V = logits.size(1);
  dispatch(logits, [&]<class T>(const kernels::TypedKernels<T>& k) {
    at::parallel_for(0, logits.size(0), row_grain(V), [&](int64_t begin, int64_t end) {
      k.cross_entropy(mutable_data<T>(logits) + begin * V,
                      targets.const_data_ptr<int64_t>() + begin,
                      losses.mutable_data_ptr<float>() + begin, end - begin, V, write_gradient,
                      static_cast<float>(scale));
    });
  });
}

struct LinearCrossEntropy : torch::autograd::Function<LinearCrossEntropy> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& h, const WeightRef& head,
                            const at::Tensor& targets, double scale, bool with_gradient,
                            double softcap) {
    const at::Tensor& weight = head.value;
    const int64_t N = h.size(0), chunk = chunk_rows(N, weight.size(0));
    const at::ScalarType wide = h.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    at::Tensor losses = at::empty({N}, h.options().dtype(wide));
    at::Tensor dh = with_gradient ? at::empty_like(h) : at::Tensor();
    for (int64_t first = 0; first < N; first += chunk) {
      const int64_t count = std::min(chunk, N - first);
      const at::Tensor rows = h.narrow(0, first, count);
      at::Tensor logits = at::mm(rows, weight.t());
      at::Tensor ratio;  // tanh(z / c)
      if (softcap > 0) {
        ratio = at::tanh(logits / softcap);
        logits = ratio * softcap;
      }
      cross_entropy_chunk(logits, targets.narrow(0, first, count), losses.narrow(0, first, count),
                          with_gradient, scale);
      if (!with_gradient) continue;
      if (softcap > 0) logits.mul_(1 - ratio * ratio);
      at::Tensor target_rows = dh.narrow(0, first, count);
      at::mm_out(target_rows, logits, weight);
      if (head.gradient.defined()) accumulate(head.gradient, at::mm(logits.t(), rows));
    }
    if (with_gradient) ctx->saved_data["dh"] = dh;
    // fp64, serial order: the reported loss does not depend on threads or chunks.
    return losses.sum(at::kDouble).to(at::kFloat);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    OSP_CHECK(d[0].item<float>() == 1.0f, "the loss must be the root of the graph");
    return {ctx->saved_data["dh"].toTensor(), {}, {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& h_ND, const WeightRef& weight,
                                const at::Tensor& targets_N, double loss_scale, bool with_gradient,
                                double softcap) {
  OSP_CHECK(h_ND.dim() == 2 && targets_N.numel() == h_ND.size(0), "{} targets for {} rows",
            targets_N.numel(), h_ND.size(0));
  return LinearCrossEntropy::apply(h_ND.contiguous(), weight, targets_N.contiguous(), loss_scale,
                                   with_gradient, softcap);
}

}  // namespace osp
