// Medians and ratios over the repetitions of a bench. Each run is the JSON object that one process
// printed; run i of one side and run i of the other were made one after the other.
#pragma once

#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// The number `key` of each run.
std::vector<double> values_of(const std::vector<Json>& runs, const std::string& key);

double median_of(const std::vector<Json>& runs, const std::string& key);

// `key` of each run above over that of the run below: a machine that is slow for a while slows both
// down, which the ratio of two medians would not see.
std::vector<double> ratios_by_pair(const std::vector<Json>& above, const std::vector<Json>& below,
                                   const std::string& key);

// Median of ratios_by_pair().
double median_ratio(const std::vector<Json>& above, const std::vector<Json>& below,
                    const std::string& key);

// The number `key` with so many digits; "" if it is missing or null.
std::string number_text(const Json& object, const char* key, int digits);

}  // namespace osp
