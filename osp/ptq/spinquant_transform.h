// SpinQuant as a transform of `osp quantize`: learns the rotations on calibration text
// (osp/ptq/spinquant.h), makes them orthogonal to the last bit and applies them part by part.
//
// Tested by quantize_method_test.cpp and tests/python/test_quantize.py.
#pragma once

#include "osp/ptq/transform.h"

namespace osp {

extern const TransformRow kSpinQuant;          // learned end to end
extern const TransformRow kSpinQuantKurtosis;  // learned layer by layer

}  // namespace osp
