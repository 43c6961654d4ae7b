// The chart of benchmarks: a group of bars per task, a bar per model and number of bits, and the
// score of guessing. Tested by tests/python/test_report_browser.py.
#pragma once

#include <vector>

#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

// No chart where no model has benchmark scores.
std::vector<Chart> task_charts(const std::vector<RunData>& runs);

}  // namespace osp
