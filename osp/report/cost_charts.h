// Charts of what outliers cost at few bits: the outlier tax, the damage of each quantizer, and dose
// and response. Tested by tests/python/test_report_browser.py.
#pragma once

#include <vector>

#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

// A chart for which no model has numbers is omitted.
std::vector<Chart> cost_charts(const std::vector<RunData>& runs);

}  // namespace osp
