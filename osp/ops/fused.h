// All operators of the transformer but attention, one header each. They are differentiable, on CPU
// tensors of type float or bfloat16 (fp32 arithmetic inside); on other devices and types the
// reference twins run.
//
// Tested by the tests of the operators.
#pragma once

#include "osp/ops/cross_entropy.h"
#include "osp/ops/embedding.h"
#include "osp/ops/linear.h"
#include "osp/ops/recomputable_input.h"
#include "osp/ops/rms_norm.h"
#include "osp/ops/rope.h"
#include "osp/ops/swiglu.h"
#include "osp/ops/weight_ref.h"
