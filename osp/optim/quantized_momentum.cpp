#include "osp/optim/quantized_momentum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <c10/util/accumulate.h>

#include "osp/ops/isa.h"

namespace osp {
namespace {

constexpr double kMomentumCodes = 127;

// [blocks, 256], the last one padded with zeros.
at::Tensor in_blocks(const at::Tensor& matrix) {
  const at::Tensor flat = matrix.reshape(-1);
  const int64_t missing = momentum_blocks(flat.numel()) * kernels::kMomentumBlock - flat.numel();
  return at::constant_pad_nd(flat, {0, missing}).view({-1, kernels::kMomentumBlock});
}

at::Tensor without_blocks(const at::Tensor& blocks, at::IntArrayRef shape) {
  return blocks.view(-1).narrow(0, 0, c10::multiply_integers(shape)).reshape(shape);
}

}  // namespace

int64_t momentum_blocks(int64_t numbers) {
  return (numbers + kernels::kMomentumBlock - 1) / kernels::kMomentumBlock;
}

QuantizedMomentum zero_quantized_momentum(const at::Tensor& bank) {
  const int64_t blocks = momentum_blocks(bank.size(1) * bank.size(2));
  return {at::zeros_like(bank, at::kChar), at::zeros({bank.size(0), blocks}, bank.options())};
}

QuantizedMomentum quantize_momentum_reference(const at::Tensor& momentum) {
  const at::Tensor blocks = in_blocks(momentum);
  const at::Tensor scales = blocks.abs().amax(1) / kMomentumCodes;
  const at::Tensor by = at::where(scales > 0, scales, at::ones_like(scales)).unsqueeze(1);
  const at::Tensor codes = (blocks / by).round().clamp(-kMomentumCodes, kMomentumCodes);
  return {without_blocks(codes, momentum.sizes()).to(at::kChar), scales};
}

void store_momentum_reference(const at::Tensor& momentum, const QuantizedMomentum& into) {
  const QuantizedMomentum next = quantize_momentum_reference(momentum);
  into.codes.copy_(next.codes);
  into.scales.copy_(next.scales);
}

at::Tensor dequantize_momentum_reference(const QuantizedMomentum& momentum) {
  const at::Tensor blocks = in_blocks(momentum.codes).to(at::kFloat);
  return without_blocks(blocks * momentum.scales.unsqueeze(1), momentum.codes.sizes());
}

const kernels::QuantizedMomentumKernels& quantized_momentum_kernels() {
  return for_active_isa<const kernels::QuantizedMomentumKernels&>(
      kernels::quantized_momentum_kernels_portable, kernels::quantized_momentum_kernels_avx2,
      kernels::quantized_momentum_kernels_avx512);
}

}  // namespace osp
