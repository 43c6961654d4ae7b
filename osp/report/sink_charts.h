// Charts of attention sinks: the share of attention that each head gives to the first token, and
// the distribution of the logits before the softmax. Tested by tests/python/test_report_browser.py.
#pragma once

#include <vector>

#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

// Histograms have at most `max_bins` bins. A chart for which no model has numbers is omitted.
std::vector<Chart> sink_charts(const std::vector<RunData>& runs, size_t max_bins);

}  // namespace osp
