// Muon's momentum in 8 bits: signed codes with one fp32 scale per block of 256 numbers of a matrix.
//
//   scale = max |b| / 127 over the block;   code = round(b / scale), half to even;   b ≈ scale·code
//
// Block-wise as in Dettmers et al. 2022 (8-bit Optimizers via Block-wise Quantization), but with
// equally spaced codes: that is enough for Muon, whose update does not divide by the momentum
// (Gupta et al. 2025, Effective Quantization of Muon Optimizer States, arXiv 2509.23106), and the
// error is smaller than that of their dynamic code (docs/numerics.md has both).
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/optim/quantized_momentum_kernels.h"

namespace osp {

struct QuantizedMomentum {
  at::Tensor codes;   // int8 [count, rows, cols]
  at::Tensor scales;  // fp32 [count, blocks of a matrix]

  QuantizedMomentum select(int64_t i) const { return {codes.select(0, i), scales.select(0, i)}; }
};

// Number of blocks in a matrix of so many numbers.
int64_t momentum_blocks(int64_t numbers);

// Zero momentum of a bank [count, rows, cols], on its device.
QuantizedMomentum zero_quantized_momentum(const at::Tensor& bank);

// The naive twins, on any device, for one matrix [rows, cols] with its codes [rows, cols] and
// scales [blocks]. A block with a number that is not finite gets a scale that is not finite.
QuantizedMomentum quantize_momentum_reference(const at::Tensor& momentum);
void store_momentum_reference(const at::Tensor& momentum, const QuantizedMomentum& into);
at::Tensor dequantize_momentum_reference(const QuantizedMomentum& momentum);

// The single passes over a matrix, compiled for the active instruction set.
const kernels::QuantizedMomentumKernels& quantized_momentum_kernels();

}  // namespace osp
