// The tables of benchmarks beside the chart: 16 against fewer bits on the same items, and MMLU's
// subjects. Tested by tests/python/test_report_items.py.
#pragma once

#include <string>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

// HTML with everything from the runs escaped; "" where there are no benchmarks.
std::string paired_section(const std::vector<RunData>& runs);
std::string subject_section(const std::vector<RunData>& runs);

}  // namespace osp
