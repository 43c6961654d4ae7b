// The texts and tables of the report about runs: recipes, samples, and how the results were made.
// Tested by page_test.cpp and tests/python/test_report.py.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

// Each function returns HTML with everything from the runs escaped; "" where there is
// nothing to show.

// The settings in which the recipes differ, and each recipe in full, folded up.
std::string recipe_section(const std::vector<RunData>& runs);
// The last texts of each run, and earlier ones folded up.
std::string sample_section(const std::vector<RunData>& runs);
// Sizes, times, missing files, versions and the commands that make these results again.
std::string provenance_section(const std::vector<RunData>& runs, const std::string& command,
                               const std::string& machine = "");

// "section.key" and value of every setting of a recipe, in order.
std::vector<std::pair<std::string, std::string>> flatten_recipe(const Json& recipe);

}  // namespace osp
