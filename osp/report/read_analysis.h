// Reader of the JSON of `osp analyze`, and helpers that all readers of results share.
// Tested by run_data_test.cpp and tests/python/test_report_browser.py.
#pragma once

#include <string>
#include <vector>

#include "osp/report/results.h"

namespace osp {

ModelResults read_analysis(const Json& file, const std::string& where);

// The members excess_kurtosis and largest_activation of analysis.json or of a validation record.
Outliers read_outliers(const Json& object, const std::string& where);

// The provenance that a file records: the command in it, else `command`, and its plain values
// except the model and those that are `shown` elsewhere.
ModelResults::Source source_of(const Json& file, const std::vector<std::string>& shown,
                               const std::string& command);

// A string of the file as a word of a command; `otherwise` if it is missing.
std::string source_word(const Json& file, const char* key, const char* otherwise);

}  // namespace osp
