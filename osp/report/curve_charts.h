// Charts of values against tokens: outliers during training, losses, and what explains them. Each
// curve has at most `max_points` points; a chart for which no model has numbers is omitted.
#pragma once

#include <vector>

#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

std::vector<Chart> outlier_curves(const std::vector<RunData>& runs, size_t max_points);
std::vector<Chart> learning_curves(const std::vector<RunData>& runs, size_t max_points);

}  // namespace osp
