// Round to nearest as a rounding of `osp quantize`: each weight by itself (round_to_nearest of
// osp/quant/weight_quantizer.h), without calibration text.
#pragma once

#include "osp/ptq/rounding.h"

namespace osp {

extern const RoundingRow kRtn;

}  // namespace osp
