// Row kernels of the fused operators on raw pointers, one table of function pointers per
// instruction set. This header and everything included where it is implemented stays free of tensor
// headers and of inline library functions (see cmake/folder.cmake). All arithmetic is fp32; T is
// the storage type. Rows are independent unless said otherwise: callers split them over threads.
#pragma once

#include <cstdint>

#include "osp/ops/bf16_bits.h"

namespace osp::kernels {

// bfloat16 as bits, layout-compatible with the tensor library's type.
struct Bf16 {
  uint16_t bits;
};

// gain_stride: 0 for one scalar gain, 1 for a gain per channel; gain may be null (all ones).
template <class T>
struct TypedKernels {
  // r = x + branch (branch may be null, residual null then allowed too); s = 1 / sqrt(mean(r²) +
  // eps); y = gain · r · s. Stores r, y, s.
  void (*rms_norm_forward)(const T* x, const T* branch, T* residual, T* y, float* inverse_rms,
                           const float* gain, int64_t gain_stride, int64_t rows, int64_t channels,
                           float eps);
  // y of rms_norm_forward again, from its residual r and inverse_rms s, to the same bits.
  void (*rms_norm_again)(const T* residual, const float* inverse_rms, const float* gain,
                         int64_t gain_stride, T* y, int64_t rows, int64_t channels);
  // dr = d_residual (may be null) + s · gain · dy − r · s³ / D · Σ gain · dy · r, written to dx.
  // gain_gradient (may be null) += Σ_rows dy · r · s, summed over channels too for a scalar gain.
  void (*rms_norm_backward)(const T* residual, const float* inverse_rms, const float* gain,
                            int64_t gain_stride, const T* dy, const T* d_residual, T* dx,
                            float* gain_gradient, int64_t rows, int64_t channels);
  // Half-split rotation of `heads` heads of one token: (a, b) -> (a cos − b sin, b cos + a sin) for
  // channel pairs (i, i + K/2). sin_sign −1 inverts. cos, sin: [K/2] of the token's position.
  void (*rope_token)(const T* in, int64_t in_head_stride, T* out, int64_t out_head_stride,
                     const float* cos, const float* sin, float sin_sign, int64_t heads,
                     int64_t head_size);
  // out = silu(gate) · up for rows [gate | up] of length 2 F.
  void (*swiglu_forward)(const T* gate_up, T* out, int64_t rows, int64_t inner);
  // Also out of swiglu_forward again, to the same bits, unless null.
  void (*swiglu_backward)(const T* gate_up, const T* d_out, T* d_gate_up, T* out, int64_t rows,
                          int64_t inner);
  // Per row: loss = log Σ exp(z) − z[target] (0 where target < 0). If write_gradient, the logits
  // are overwritten by (softmax − onehot) · scale (0 where target < 0).
  void (*cross_entropy)(T* logits, const int64_t* targets, float* losses, int64_t rows,
                        int64_t vocabulary, bool write_gradient, float scale);
  // sum[i] += x[i].
  void (*accumulate)(float* sum, const T* x, int64_t count);
};

struct Kernels {
  const char* name;
  TypedKernels<float> f32;
  TypedKernels<Bf16> bf16;
};

const Kernels& row_kernels_portable();
const Kernels& row_kernels_avx2();
const Kernels& row_kernels_avx512();

}  // namespace osp::kernels
