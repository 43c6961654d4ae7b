// Charts of quantized models: perplexity at each number of bits and by method, and the noise of
// rounding in each layer. Tested by tests/python/test_report_browser.py.
#pragma once

#include <vector>

#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

// A chart for which no model has numbers is omitted.
std::vector<Chart> quantization_charts(const std::vector<RunData>& runs);

}  // namespace osp
