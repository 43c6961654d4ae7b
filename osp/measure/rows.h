// Statistics of a tensor [rows, D] row by row (a row is one token's state), in one pass.
//
// Rows are read in blocks that stay in cache: a float tensor on the CPU is read in place, any other
// is converted a block at a time. Per-row results are combined in row order, so they do not depend
// on the number of threads.
//
// Tested by outlier_tap_test.cpp and point_profile_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <span>

#include "osp/measure/histogram.h"
#include "osp/measure/moments.h"

namespace osp {

// A mean with the number of rows that have a value; rows without spread have no kurtosis and are
// left out, a row that is not finite makes the mean NaN.
struct KurtosisMean {
  double sum = 0.0;
  double weight = 0.0;

  void add(double value, double value_weight = 1.0) {
    sum += value * value_weight;
    weight += value_weight;
  }
  void merge(const KurtosisMean& other) {
    sum += other.sum;
    weight += other.weight;
  }
  double mean() const { return sum / weight; }  // NaN if nothing was added
};

// The contribution of one row to a measurement.
struct RowStatistics {
  Moments moments;
  float largest = 0.0f;  // max |x| over finite x; infinite if any x is not finite
};

RowStatistics row_statistics(std::span<const float> row);

// Calls `visit(first_row, rows, statistics)` for consecutive blocks of rows of x [.., D], in order:
// `rows` is the block's data, statistics.size() rows of D floats. The statistics are computed in
// parallel, the calls come from the calling thread.
using RowVisitor = std::function<void(int64_t first_row, std::span<const float> rows,
                                      std::span<const RowStatistics> statistics)>;
void for_each_row_block(const at::Tensor& x, const RowVisitor& visit);

// Counts all numbers of x in parallel.
void add_to_histogram(Histogram& histogram, std::span<const float> numbers);

}  // namespace osp
