#include "osp/ptq/hessian.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/ops/gram.h"

namespace osp {
void InputStatistics::add(const at::Tensor& inputs, const at::Tensor& unquantized,
                          int64_t sequences) {
  const int64_t in = inputs.size(-1);
  const at::Tensor rows = inputs.detach().reshape({-1, in});
  if (!upper_.defined()) upper_ = at::zeros({in, in}, at::kFloat);
  add_gram(upper_, rows);
  OSP_CHECK(unquantized.defined() == difference_.defined() || sequences_ == 0,
            "unquantized inputs with every call or with none");
  if (unquantized.defined()) {
    const at::Tensor x = rows.to(at::kFloat);
    if (!difference_.defined()) difference_ = at::zeros({in, in}, at::kFloat);
    difference_.addmm_(unquantized.detach().reshape({-1, in}).to(at::kFloat).sub(x).t(), x);
  }
  sequences_ += sequences;
  tokens_ += rows.size(0);
}

at::Tensor InputStatistics::hessian() const {
  OSP_CHECK(sequences_ > 0, "no calibration inputs");
  const at::Tensor upper = upper_.triu();
  return upper.add(upper.triu(1).t()).mul_(2.0 / static_cast<double>(sequences_));
}

at::Tensor InputStatistics::difference() const {
  if (!difference_.defined()) return {};
  return difference_.mul(2.0 / static_cast<double>(sequences_));
}

at::Tensor hessian_reference(const at::Tensor& inputs, int64_t sequences) {
  return gram_reference(inputs.reshape({-1, inputs.size(-1)}))
      .mul_(2.0 / static_cast<double>(sequences));
}

double relative_output_error(const at::Tensor& weight, const at::Tensor& quantized,
                             const at::Tensor& hessian) {
  const auto energy = [&](const at::Tensor& w) {
    const at::Tensor wide = w.to(at::kDouble);
    return at::mm(wide, hessian.to(at::kDouble)).mul_(wide).sum().item<double>();
  };
  return std::sqrt(std::max(0.0, energy(weight.sub(quantized))) / energy(weight));
}

}  // namespace osp
