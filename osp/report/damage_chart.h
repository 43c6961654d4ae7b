// The chart of damage: how much each way of quantizing adds to a model's perplexity on the same
// text. Tested by tests/python/test_report_damage.py.
#pragma once

#include <vector>

#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

// No chart where no model has both 16 and fewer bits of one measurement.
std::vector<Chart> damage_charts(const std::vector<RunData>& runs);

}  // namespace osp
