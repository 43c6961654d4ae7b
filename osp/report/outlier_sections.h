// The texts and tables of the report about outliers and attention sinks.
// Tested by page_test.cpp and tests/python/test_report_browser.py.
#pragma once

#include <string>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

// Each function returns HTML with everything from the runs escaped; "" where there is
// nothing to show.

// Where each run's largest activation was found.
std::string largest_section(const std::vector<RunData>& runs);
// The largest activations with their text, folded up, one list per model.
std::string activation_section(const std::vector<RunData>& runs);
// Whether any model has a head that is a sink, or may have one.
bool any_sink(const std::vector<RunData>& runs);
// Attention sinks in numbers.
std::string sink_section(const std::vector<RunData>& runs);
// The conclusions of the analyses, as sentences.
std::string verdict_section(const std::vector<RunData>& runs);

}  // namespace osp
