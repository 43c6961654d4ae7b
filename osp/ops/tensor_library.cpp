#include "osp/ops/tensor_library.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/erf.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/expm1.h>
#include <ATen/ops/log.h>
#include <ATen/ops/log1p.h>
#include <ATen/ops/log2.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/tanh.h>

#include <cstdlib>

#include "osp/ops/isa.h"

namespace osp {

void prepare_tensor_library() {
  if (std::getenv("OSP_ISA") == nullptr) return;
  static constexpr const char* kAten[] = {"default", "default", "avx2", "avx512", "avx512"};
  static constexpr const char* kOneDnn[] = {"SSE41", "SSE41", "AVX2", "AVX512_CORE_BF16",
                                            "AVX512_CORE_AMX"};
  const int level = static_cast<int>(active_isa());
  setenv("ATEN_CPU_CAPABILITY", kAten[level], 1);
  setenv("ONEDNN_MAX_CPU_ISA", kOneDnn[level], 1);
}

void prepare_vector_functions() {
  static const bool done = [] {
    const c10::NoGradGuard no_graph;
    using Function = at::Tensor (*)(const at::Tensor&);
    static constexpr Function kFunctions[] = {at::cos,   at::erf,  at::exp, at::expm1, at::log,
                                              at::log1p, at::log2, at::sin, at::sqrt,  at::tanh};
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      const at::Tensor one = at::ones({1}, type);
      for (const Function function : kFunctions) function(one);
    }
    return true;
  }();
  static_cast<void>(done);
}

}  // namespace osp
