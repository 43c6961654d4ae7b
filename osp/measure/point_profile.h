// Profile of one tap point of one layer: kurtosis of its rows, size of its channels and its largest
// numbers. It is fed blocks of rows, and its memory depends on the number of channels alone.
//
// A row is a token's numbers at a point, at q, k and v one head's; channels of all heads are
// counted through. With x a row, [0, hi] its range from above 0, [lo, 0] from below, a 4-bit step
// is proportional to R = hi − lo. With R' the same without the row's largest |x|,
//
//   step share = 1 − R' / R
//
// is the part of the quantization step that this one channel takes: 0 if another is as large on its
// side, near 1 if it alone sets the step.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "osp/measure/rows.h"

namespace osp {

// The number of largest activations that are kept per point and layer, at most one of a row.
inline constexpr size_t kLargestPerPoint = 3;

struct PlacedActivation {
  float value = 0;  // with its sign
  int64_t sequence = -1, position = -1, channel = -1;
};

// 1 − R' / R; 0 for a row of zeros. `largest` is the place of the largest |x|.
double step_share(std::span<const float> row, int64_t largest);

// Naive twin: finds the ranges number by number.
double step_share_reference(std::span<const float> row);

// Place of the largest |x|, the first of equals.
int64_t find_largest(std::span<const float> row);

class PointProfile {
 public:
  // Shape of the tensor that rows come from: [B, T, D], or [B, heads, T, K] of a head's rows.
  struct Layout {
    int64_t heads = 1, length = 1, width = 1;
    int64_t first_sequence = 0;
  };
  static Layout layout_of(const at::Tensor& x, int64_t first_sequence);

  // A block as for_each_row_block gives it.
  void add(const Layout& layout, int64_t first_row, std::span<const float> rows,
           std::span<const RowStatistics> per_row);
  void merge(const PointProfile& other);

  int64_t rows() const { return rows_; }
  const KurtosisMean& kurtosis() const { return kurtosis_; }  // ours, mean over rows
  const KurtosisMean& clipped() const { return clipped_; }    // the reference's formula, in context
  double step_share() const { return step_share_sum_ / static_cast<double>(rows_); }
  // Root mean square of every channel over tokens.
  std::vector<double> channel_rms() const;
  const std::vector<PlacedActivation>& largest() const { return largest_; }  // descending |x|

 private:
  void add_channels(const Layout& layout, int64_t first_row, std::span<const float> rows);
  void keep(const PlacedActivation& candidate);

  int64_t rows_ = 0, heads_ = 1;
  double step_share_sum_ = 0.0;
  KurtosisMean kurtosis_, clipped_;
  std::vector<double> squares_;  // Σ x² per channel
  std::vector<PlacedActivation> largest_;
};

}  // namespace osp
