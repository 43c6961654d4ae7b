// Numbers on their way into JSON, which has neither NaN nor infinity.
//
// Tested by osp/report/summary_test.cpp (numbers that are missing).
#pragma once

#include <cmath>

#include "osp/base/json.h"

namespace osp {

// The number, or null where it is not finite.
inline Json finite_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

}  // namespace osp
