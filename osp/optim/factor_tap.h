// The tap by which K-FAC watches the passes of one step: sums x xᵀ of the inputs and dy dyᵀ of the
// output gradients of its linear layers.
//
// Tested by kfac_test.cpp.
#pragma once

#include <map>
#include <set>

#include "osp/model/tap.h"

namespace osp {

// Sums over the tokens of a step, fp32, on and above the diagonal (osp/ops/gram.h).
struct FactorSums {
  at::Tensor inputs;            // Σ x xᵀ [in, in]; layers that share an input share the tensor
  at::Tensor output_gradients;  // Σ dy dyᵀ [out, out]
  int64_t num_tokens = 0;
};

class FactorTap : public Tap {
 public:
  // Adds a layer to be watched.
  void watch(int64_t parameter) { parameters_.insert(parameter); }
  // Clears all sums. Until the next call, gathers or ignores the passes.
  void restart(bool gather);
  // Sums by parameter; layers that were not seen are missing.
  const std::map<int64_t, FactorSums>& sums() const { return sums_; }

  bool wants(TapPoint, int64_t) const override { return false; }
  at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override { return x; }
  bool wants_linear() const override { return gathers_; }
  void linear_input(std::span<const int64_t> parameters, const at::Tensor& x) override;
  void linear_output_gradient(int64_t parameter, const at::Tensor& dy) override;

 private:
  std::set<int64_t> parameters_;
  bool gathers_ = false;
  std::map<int64_t, FactorSums> sums_;
};

}  // namespace osp
