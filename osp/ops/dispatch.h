// From tensors to row kernels: storage type and instruction set. The way of a call:
//   1. The model calls an operator on tensors: rms_norm(x, gain, eps) in rms_norm.h.
//   2. rms_norm.cpp checks has_kernels(x); if not, the reference twin runs.
//   3. It splits the rows over threads and calls dispatch(), which picks the storage type
//      (TypedKernels<float> or TypedKernels<Bf16>, kernels.h) ...
//   4. ... of the table for the instruction set in use (active_kernels(), isa.h).
//   5. The table points into kernels_body.inc, which the build compiles once per instruction set.
//
// Tested by the tests of the operators.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/ops/isa.h"

namespace osp {

// True if the CPU kernels handle this tensor; if not, the reference twin runs.
inline bool has_kernels(const at::Tensor& x) {
  return x.device().is_cpu() && active_isa() != Isa::reference &&
         (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

// Calls f.template operator()<T>(kernels of T) for the tensor's storage type.
template <class Function>
void dispatch(const at::Tensor& x, const Function& f) {
  OSP_CHECK(has_kernels(x), "no CPU kernel for this type");
  if (x.scalar_type() == at::kFloat) {
    f(active_kernels().f32);
  } else {
    f(active_kernels().bf16);
  }
}

template <class T>
const T* data(const at::Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

template <class T>
T* mutable_data(const at::Tensor& x) {
  return static_cast<T*>(x.mutable_data_ptr());
}

// Rows per chunk of parallel work: about 16 K elements, small enough to balance two cores.
inline int64_t row_grain(int64_t channels) { return std::max<int64_t>(1, 16384 / channels); }

}  // namespace osp
