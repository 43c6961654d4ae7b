// The report of a run, quantize.json: errors and times, one entry per linear layer and totals.
//
// Tested by quantize_method_test.cpp.
#pragma once

#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/ptq/quantize_block.h"

namespace osp {

// One layer; numbers that were not measured are null.
Json linear_report_json(const LinearReport& report);

// The reverse. `where` begins the message of an Error(damaged).
LinearReport parse_linear_report(const Json& json, const std::string& where);

// {"layers": [...], "totals": {...}}: totals hold the number of layers, means of SQNR and output
// error, the largest output error with its layer, and the sum of seconds.
Json quantize_report_json(const std::vector<LinearReport>& reports);

}  // namespace osp
