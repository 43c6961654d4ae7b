// The heat map of excess kurtosis over layers and tokens, one panel per run.
#pragma once

#include <vector>

#include "osp/report/chart.h"
#include "osp/report/run_data.h"

namespace osp {

// Runs with fewer than two validations are omitted.
Chart kurtosis_heat_map(const std::vector<RunData>& runs);

}  // namespace osp
