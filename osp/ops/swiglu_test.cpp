// SwiGLU: the reference twin and finite differences.
#include "osp/ops/swiglu.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <vector>

#include "osp/ops/test_operators.h"

namespace osp {
namespace {

std::vector<OperatorCase> swiglu_cases() {
  return {
      {"swiglu",
       [](const auto& x) { return swiglu(x[0]).value; },
       [](const auto& x) { return swiglu_reference(x[0]); },
       {{5, 3, 70}}},
  };
}

TEST(Swiglu, EqualsItsReferenceTwin) {
  for (const OperatorCase& c : swiglu_cases()) expect_equals_twin(c);
}

TEST(Swiglu, InBf16StaysWithinItsRounding) {
  for (const OperatorCase& c : swiglu_cases()) expect_within_bf16_rounding(c);
}

TEST(Swiglu, GradientsEqualFiniteDifferences) {
  for (const OperatorCase& c : swiglu_cases()) expect_gradients_of_differences(c);
}

}  // namespace
}  // namespace osp
