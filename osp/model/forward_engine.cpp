#include "osp/model/forward_engine.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/scalar_tensor.h>

#include <algorithm>

#include "osp/model/tap.h"
#include "osp/ops/log_probabilities.h"

namespace osp {
namespace {

constexpr int64_t kLossRows = 256;  // of logits that exist at a time

}  // namespace

ForwardEngine* engine_of(Tap* tap) { return tap == nullptr ? nullptr : tap->engine(); }

at::Tensor ForwardEngine::loss_sum(const at::Tensor& hidden_ND, const at::Tensor& targets,
                                   double scale) {
  double sum = 0.0;
  for (int64_t row = 0; row < hidden_ND.size(0); row += kLossRows) {
    const int64_t rows = std::min(kLossRows, hidden_ND.size(0) - row);
    const at::Tensor wanted = targets.narrow(0, row, rows);
    const at::Tensor log_p = log_probabilities(logits(hidden_ND.narrow(0, row, rows)));
    const at::Tensor losses = log_p.gather(1, wanted.clamp_min(0).unsqueeze(1)).squeeze(1);
    sum -= losses.mul(wanted.ge(0)).sum(at::kDouble).item<double>();
  }
  return at::scalar_tensor(sum * scale, at::kDouble);
}

}  // namespace osp
