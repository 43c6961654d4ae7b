// What a page compares models on, and the sentences that say what its other numbers were measured
// on: excess kurtosis, the outlier tax, averages of benchmarks. As with perplexities, numbers of
// different texts are never held against each other.
//
// Tested by common_measurements_test.cpp and tests/python/test_report_measurements.py.
#pragma once

#include <string>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

// The measurement of each kind that most models have, the first of several; an empty one where no
// model has any.
struct CommonMeasurements {
  Measurement perplexity = {};
  Measurement cost = {};        // of the outlier tax at kFourBits
  Measurement benchmarks = {};  // of averages at kFourBits
};
CommonMeasurements common_measurements(const std::vector<RunData>& runs);

// The cost of few bits at kFourBits on that measurement; one without numbers if there is none.
ReportedCost cost_on(const RunData& run, const Measurement& at);

// An average of benchmarks at kFourBits, and its standard error; NaN where there is none on that
// measurement.
struct AverageScore {
  double value;
  double error;
};
AverageScore average_on(const RunData& run, const Measurement& at);

// The standard error of the average of ten scores: the two of ARC count as one.
double average_error(const EvalResult& result);

// Sentences for below the table of results: "Outlier tax, … : on wiki.test, 8,128 tokens, window
// 256." or which models were measured on what.
std::vector<std::string> measurement_notes(const std::vector<RunData>& runs);

}  // namespace osp
