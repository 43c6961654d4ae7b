// Kurtosis by expert as JSON (docs/formats.md, "osp analyze --json") and as text.
//
// Tested by tests/python/test_experts.py.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/measure/expert_tap.h"

namespace osp {

// One entry per expert, block by block; numbers of an expert without tokens are null.
Json expert_json(const StatisticsByExpert& experts);

// The ten experts with the largest kurtosis at the input of their down projection, and the spread
// over all; "" for a model without experts.
std::string expert_text(const StatisticsByExpert& experts);

}  // namespace osp
