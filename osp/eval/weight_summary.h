// The weights of a model as a quantizer sees them: per matrix kurtosis, largest entry, spread of
// channels, and SQNR after rounding to `bits` bits per output channel with the clipping search.
// Tested by tests/python/test_analyze.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/model/parameters.h"

namespace osp {

struct WeightSummary {
  std::string name;
  int64_t layer = -1, rows = 0, columns = 0;
  double excess_kurtosis = 0;  // of all entries
  double largest = 0;          // |w|
  int64_t row = 0, column = 0;
  double input_spread = 0, output_spread = 0;  // largest over median RMS of columns, of rows
  double sqnr_db = 0;                          // NaN for tables, which are not quantized
};

// Summaries of block matrices, embedding, head and EmbProj, in the order of the parameters.
std::vector<WeightSummary> summarize_weights(const ParameterStore& store, int64_t bits);

Json weight_json(const std::vector<WeightSummary>& weights);

// The largest value over the median (the upper of two middle values); NaN of an empty list.
double largest_over_median(std::vector<double> rms);

}  // namespace osp
