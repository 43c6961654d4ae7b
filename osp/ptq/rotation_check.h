// The check that rotations leave a model's logits as they are, before any weight is quantized.
//
// Tested by rotation_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/model/model_source.h"
#include "osp/model/tap.h"
#include "osp/ptq/rotation.h"

namespace osp {

// The online Hadamards without any quantization: R3 on queries and keys, R4 before the
// down projection.
class OnlineHadamardTap : public Tap {
 public:
  explicit OnlineHadamardTap(const OnlineTransforms& online) : online_(online) {}
  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;

 private:
  OnlineTransforms online_;
};

// Allowed change of fp64 logits, as a part of the largest one.
inline constexpr double kInvarianceTolerance = 1e-12;

// Applies the plan in fp64 one transform after another, and R3 where heads have a Hadamard matrix,
// and compares the logits on tokens_BT (a few are enough) after each. The source is read part by
// part, so that no more than one block and the tables are in memory. Returns the largest change;
// OSP_CHECK naming the transform if it exceeds kInvarianceTolerance. Errors of
// check_rotations_exact; Error(damaged) if a logit is not finite.
double check_rotations(const ModelSource& source, const RotationPlan& plan,
                       const at::Tensor& tokens_BT);

}  // namespace osp
