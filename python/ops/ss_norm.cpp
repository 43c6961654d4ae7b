// SSNorm as operators of PyTorch, for eager tensors on the CPU (python/osp/native.py), through its
// stable ABI: one shared object for PyTorch 2.10 and later. The arithmetic is that of the program's
// row kernels (osp/ops/kernels.h).
//
//   y = γ · x · s,  s = 1 / sqrt(mean(x²) + eps)                     of each row of x [..., D]
//   dx = γ s dy − x · γ s³ / D · Σ dy · x;   dγ = Σ over all rows of s Σ dy · x
//
// Tested by tests/python/test_py_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "osp/ops/isa.h"
#include "osp/ops/kernels.h"

namespace osp {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kBlockRows = 128;  // rows whose share of dγ is summed in fp32

// Numbers of a row that are worth a thread's start, in rows.
int64_t grain(int64_t channels) { return std::max<int64_t>(1, 16384 / channels); }

template <class T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

// Rows of x and their length. Throws for what the kernels do not serve.
std::tuple<int64_t, int64_t> rows_of(const Tensor& x, const Tensor& gain) {
  STD_TORCH_CHECK(x.is_cpu() && x.dim() > 0 && x.is_contiguous(),
                  "osp::ss_norm: x must be a contiguous tensor on the CPU");
  STD_TORCH_CHECK(gain.is_cpu() && gain.numel() == 1 && gain.scalar_type() == ScalarType::Float,
                  "osp::ss_norm: the gain must be one fp32 number on the CPU");
  const int64_t channels = x.size(-1);
  return {channels == 0 ? 0 : x.numel() / channels, channels};
}

// Calls body(kernels) with the kernels of x's type.
template <class Body>
void with_kernels(const Tensor& x, const Body& body) {
  const bool rounded = x.scalar_type() == ScalarType::BFloat16;
  STD_TORCH_CHECK(rounded || x.scalar_type() == ScalarType::Float,
                  "osp::ss_norm: x must be fp32 or bf16");
  rounded ? body(active_kernels().bf16) : body(active_kernels().f32);
}

// (y, s): s is fp32 [rows].
std::tuple<Tensor, Tensor> ss_norm(const Tensor& x, const Tensor& gain, double eps) {
  const auto [rows, channels] = rows_of(x, gain);
  const Tensor y = torch::stable::empty_like(x);
  const std::vector<int64_t> size = {rows};
  const Tensor inverse_rms = torch::stable::new_empty(x, size, ScalarType::Float);
  if (rows == 0) return {y, inverse_rms};
  with_kernels(x, [&, D = channels, num_rows = rows]<class T>(const kernels::TypedKernels<T>& k) {
    torch::stable::parallel_for(0, num_rows, grain(D), [&](int64_t begin, int64_t end) {
      k.rms_norm_forward(data<T>(x) + begin * D, nullptr, nullptr, mutable_data<T>(y) + begin * D,
                         mutable_data<float>(inverse_rms) + begin, data<float>(gain), 0,
                         end - begin, D, static_cast<float>(eps));
    });
  });
  return {y, inverse_rms};
}

// (dx, dγ): dγ is fp32 [1], with the same bits on any number of threads.
std::tuple<Tensor, Tensor> ss_norm_backward(const Tensor& dy, const Tensor& x,
                                            const Tensor& inverse_rms, const Tensor& gain) {
  const auto [rows, channels] = rows_of(x, gain);
  STD_TORCH_CHECK(dy.is_cpu() && dy.is_contiguous() && dy.scalar_type() == x.scalar_type() &&
                      dy.numel() == x.numel(),
                  "osp::ss_norm_backward: dy must be contiguous and of the type and size of x");
  STD_TORCH_CHECK(inverse_rms.is_cpu() && inverse_rms.is_contiguous() &&
                      inverse_rms.scalar_type() == ScalarType::Float && inverse_rms.numel() == rows,
                  "osp::ss_norm_backward: inverse_rms must be contiguous, fp32, one of each row");
  const Tensor dx = torch::stable::empty_like(x);
  const std::vector<int64_t> size = {1};
  const Tensor d_gain = torch::stable::new_empty(x, size, ScalarType::Float);
  const int64_t blocks = (rows + kBlockRows - 1) / kBlockRows;
  std::vector<float> partial(static_cast<size_t>(blocks));
  if (rows > 0) {
    with_kernels(x, [&, D = channels, num_rows = rows]<class T>(const kernels::TypedKernels<T>& k) {
      torch::stable::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) {
          const int64_t first = block * kBlockRows, at = first * D;
          k.rms_norm_backward(data<T>(x) + at, data<float>(inverse_rms) + first, data<float>(gain),
                              0, data<T>(dy) + at, nullptr, mutable_data<T>(dx) + at,
                              &partial[static_cast<size_t>(block)],
                              std::min(kBlockRows, num_rows - first), D);
        }
      });
    });
  }
  double sum = 0;
  for (const float part : partial) sum += part;
  *mutable_data<float>(d_gain) = static_cast<float>(sum);
  return {dx, d_gain};
}

}  // namespace
}  // namespace osp

STABLE_TORCH_LIBRARY(osp, library) {
  library.def("ss_norm(Tensor x, Tensor gain, float eps) -> (Tensor y, Tensor inverse_rms)");
  library.def(
      "ss_norm_backward(Tensor dy, Tensor x, Tensor inverse_rms, Tensor gain) -> "
      "(Tensor dx, Tensor d_gain)");
}

STABLE_TORCH_LIBRARY_IMPL(osp, CPU, library) {
  library.impl("ss_norm", TORCH_BOX(&osp::ss_norm));
  library.impl("ss_norm_backward", TORCH_BOX(&osp::ss_norm_backward));
}
