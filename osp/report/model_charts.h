// Charts of the finished models' outliers: kurtosis by layer, now and over the run, and histograms
// of activations beside a Gaussian.
#pragma once

#include <vector>

#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

// Histograms have at most `max_bins` bins. A chart for which no model has numbers is omitted.
std::vector<Chart> model_charts(const std::vector<RunData>& runs, size_t max_bins);

}  // namespace osp
