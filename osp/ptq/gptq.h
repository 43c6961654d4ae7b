// GPTQ (Frantar et al. 2022) and its corrections for inputs that were already changed by the layers
// before: GPTAQ (Li et al. 2025) and Qronos (Zhang et al. 2025).
//
// A layer y = W x has calibration inputs X̃ [tokens, in] as the quantized model produces them and X
// as the unquantized model does. With H = X̃ᵀX̃ and H⁻¹ = UᵀU, U upper triangular, columns are
// rounded one after the other and the error of each is spread over those that follow:
//
//   e = (w_i − q_i) / U_ii,   w_j ← w_j − e U_ij            for j > i            (GPTQ)
//   w_j ← w_j + w_i P_ij,  P = α triu(D Uᵀ, 1) U,  D = (X − X̃)ᵀ X̃                (GPTAQ adds)
//
// Qronos first rounds the first column to q_1 = (G_1 w − H_1,2… w_2…) / H_11, G = X̃ᵀX, and
// replaces the others by the least-squares solution given q_1; then it spreads errors as GPTQ does.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "osp/ptq/rounding.h"
#include "osp/quant/quantized_linear.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

enum class Correction { none, gptaq, qronos };

struct GptqOptions {
  double damping = 0.01;   // times the mean of H's diagonal, added to it
  int64_t block = 128;     // columns between updates of everything to their right
  bool act_order = false;  // columns by falling H_ii; groups stay where they are
  Correction correction = Correction::none;
  double gptaq_alpha = 0.25;
  double qronos_damping = 1e-3;  // times the largest eigenvalue of H, in place of `damping`
};

// weight [out, in]; hessian [in, in] (any positive multiple of X̃ᵀX̃); difference [in, in], the
// same multiple of (X − X̃)ᵀX̃, undefined without correction. The factorization runs in fp64, the
// rest in fp32. A factorization that fails is repeated with ten times the damping until it
// succeeds. Errors: as find_grid; Error(unsupported) naming `what` if the Hessian is not finite.
RoundedLayer gptq(const at::Tensor& weight, const at::Tensor& hessian, const at::Tensor& difference,
                  const WeightGrid& grid, const GptqOptions& options, const std::string& what);

// Naive twin for GPTQ without correction: one column at a time over the explicit inverse, fp64.
QuantizedLinear gptq_reference(const at::Tensor& weight, const at::Tensor& hessian,
                               const WeightGrid& grid, const GptqOptions& options);

// The rows set the correction; the other options are those of the caller.
extern const RoundingRow kGptq, kGptaq, kQronos;

}  // namespace osp
