// The parts of the report that are text and tables: recipes, samples, and how it all was made.
#pragma once

#include <string>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

// Each function gives HTML with everything from the runs escaped; "" where there is nothing to
// show.

// Where each run's largest activation was found.
std::string largest_section(const std::vector<RunData>& runs);
// The largest activations with their text, behind a disclosure for each model.
std::string activation_section(const std::vector<RunData>& runs);
// Sinks in numbers, and what the analyses conclude.
std::string sink_section(const std::vector<RunData>& runs);
std::string verdict_section(const std::vector<RunData>& runs);
// The settings in which the recipes differ, and each recipe in full behind a disclosure.
std::string recipe_section(const std::vector<RunData>& runs);
// The last texts of each run, and how they looked earlier behind a disclosure.
std::string sample_section(const std::vector<RunData>& runs);
// Sizes, times, what was missing, versions and the commands that make these results again.
std::string provenance_section(const std::vector<RunData>& runs, const std::string& command,
                               const std::string& machine = "");

// "section.key" and value of every setting of a recipe, in order.
std::vector<std::pair<std::string, std::string>> flatten_recipe(const Json& recipe);

}  // namespace osp
