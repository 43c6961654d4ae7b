// Round to nearest as a rounding of `osp quantize`: each weight by itself (round_to_nearest of
// osp/quant/weight_quantizer.h), without calibration text.
//
// Tested by tests/python/test_quantize.py and tests/python/test_experts_quantize.py.
#pragma once

#include "osp/ptq/rounding.h"

namespace osp {

extern const RoundingRow kRtn;

}  // namespace osp
