// Runs of one recipe with several seeds as one model: means, and the lowest and highest over seeds.
//
// Tested by tests/python/test_report_sizes.py.
#pragma once

#include <string>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

// Indices of the runs in groups of equal recipes (but for the seed, the data's path and how often
// the run logs, samples and saves), in order of appearance. Models without recipe stay alone.
std::vector<std::vector<size_t>> seed_groups(const std::vector<RunData>& runs);

// One model per group. A group of one is its run; of several, curves are means with a band, numbers
// are means of what every seed has, and texts, histograms and sinks are those of the first.
std::vector<RunData> join_seeds(const std::vector<RunData>& runs);

}  // namespace osp
