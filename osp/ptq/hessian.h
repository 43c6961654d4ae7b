// Statistics of a layer's calibration inputs: sums of products over tokens, in fp32.
//
//   H = (2 / N) Σ x̃ x̃ᵀ,   D = (2 / N) Σ (x − x̃) x̃ᵀ      N sequences
//
// x̃ is the input in the quantized model, x in the transformed model without quantization (only the
// corrections of GPTQ need D). Only the upper triangle of H is computed (gram.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace osp {

class InputStatistics {
 public:
  // Adds inputs [.., in] of `sequences` sequences. `unquantized`, if defined, has the same shape
  // and is given with every call or with none.
  void add(const at::Tensor& inputs, const at::Tensor& unquantized, int64_t sequences);

  at::Tensor hessian() const;     // fp32 [in, in], symmetric; something must have been added
  at::Tensor difference() const;  // fp32 [in, in], undefined without unquantized inputs
  int64_t sequences() const { return sequences_; }
  int64_t tokens() const { return tokens_; }

 private:
  at::Tensor upper_, difference_;
  int64_t sequences_ = 0, tokens_ = 0;
};

// Naive twin: one product over everything, fp64.
at::Tensor hessian_reference(const at::Tensor& inputs, int64_t sequences);

// tr(Δ H Δᵀ) / tr(W H Wᵀ) under the root: the relative error ‖X Δᵀ‖ / ‖X Wᵀ‖ of a layer's output on
// the calibration inputs.
double relative_output_error(const at::Tensor& weight, const at::Tensor& quantized,
                             const at::Tensor& hessian);

}  // namespace osp
