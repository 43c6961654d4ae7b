// The Newton–Schulz iteration of Muon as an operator of PyTorch, for bf16 matrices on a CPU
// (python/osp/native.py), through its stable ABI. The arithmetic is that of the program
// (osp/optim/panel_iteration.h), bit for bit.
//
// Tested by tests/python/test_py_ops.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "osp/optim/panel_iteration.h"

namespace osp {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Threads take the tasks as they come free.
void by_threads(int64_t count, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> next = 0;
  const auto work = [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) task(i);
  };
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, std::min(threads, count), 1, work);
}

// x: bf16 [n, rows, columns], each divided by its norm; `steps`: (a, b, c) of each step. Returns
// the iterated matrices, bf16 of the same shape, with the same bits on any number of threads.
Tensor newton_schulz(const Tensor& x, std::vector<double> steps, double norm_scale,
                     bool by_schatten_norm, bool pair_first) {
  STD_TORCH_CHECK(
      x.is_cpu() && x.dim() == 3 && x.is_contiguous() && x.scalar_type() == ScalarType::BFloat16,
      "osp::newton_schulz: x must be contiguous bf16 matrices [n, rows, columns] on "
      "the CPU");
  STD_TORCH_CHECK(!steps.empty() && steps.size() % 3 == 0,
                  "osp::newton_schulz: steps must be (a, b, c) of each step");
  STD_TORCH_CHECK(PanelIteration::is_best(),
                  "osp::newton_schulz: this CPU has no bf16 products of AVX-512, or has AMX");
  NewtonSchulz settings;
  settings.norm_scale = norm_scale;
  settings.by_schatten_norm = by_schatten_norm;
  settings.pair_first = pair_first;
  for (size_t i = 0; i < steps.size(); i += 3) {
    settings.steps.push_back({steps[i], steps[i + 1], steps[i + 2]});
  }
  Tensor result = torch::stable::empty_like(x);
  const int64_t rows = x.size(1), columns = x.size(2), size = rows * columns;
  if (x.numel() == 0) return result;
  const auto* from = static_cast<const uint16_t*>(x.const_data_ptr());
  auto* to = static_cast<uint16_t*>(result.mutable_data_ptr());
  PanelIteration iteration(rows, columns, by_threads);
  for (int64_t i = 0; i < x.size(0); ++i) {
    std::copy_n(from + i * size, size, iteration.data());
    iteration.run(settings);
    std::copy_n(iteration.data(), size, to + i * size);
  }
  return result;
}

bool serves_newton_schulz() { return PanelIteration::is_best(); }

}  // namespace
}  // namespace osp

STABLE_TORCH_LIBRARY_FRAGMENT(osp, library) {
  library.def(
      "newton_schulz(Tensor x, float[] steps, float norm_scale, bool by_schatten_norm, "
      "bool pair_first) -> Tensor");
  library.def("serves_newton_schulz() -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(osp, CPU, library) {
  library.impl("newton_schulz", TORCH_BOX(&osp::newton_schulz));
}

STABLE_TORCH_LIBRARY_IMPL(osp, CompositeExplicitAutograd, library) {
  library.impl("serves_newton_schulz", TORCH_BOX(&osp::serves_newton_schulz));
}
