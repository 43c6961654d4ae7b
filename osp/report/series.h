// Curves for the report: a value against tokens, smoothed and thinned so that a run of any length
// stays readable and the page stays small.
#pragma once

#include <cstddef>
#include <limits>
#include <vector>

#include "osp/base/json.h"

namespace osp {

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A curve. Values may be NaN (a non-finite number in the run); tokens are finite.
struct Series {
  std::vector<double> tokens;
  std::vector<double> values;
  std::vector<double> low = {}, high = {};  // over seeds, where this is a mean over several

  size_t size() const { return tokens.size(); }
  bool empty() const { return tokens.empty(); }
  void add(double at_tokens, double value) {
    tokens.push_back(at_tokens);
    values.push_back(value);
  }
};

// At most `max_points` (>= 4) points of the curve: both ends, and from each of equal groups of
// points between them the lowest and the highest in their order, so that no spike is lost. A group
// without a finite value keeps one NaN, which draws as a gap. A curve that is short enough is
// returned as it is.
Series thin(const Series& series, size_t max_points);

// At most `max_points` points, each the mean of a group of neighbouring points (values that are not
// finite skipped). A curve that is short enough is returned as it is.
Series group_means(const Series& series, size_t max_points);

// The mean over a window centred on each point, at most `window` points wide and shrinking evenly
// towards both ends, so that the curve is not shifted; non-finite values are skipped. O(n).
Series smooth(const Series& series, size_t window);
// Reference twin of smooth(): sums every window anew, O(n * window).
Series smooth_reference(const Series& series, size_t window);

// The window that the report uses: a fiftieth of the curve, 1 (no smoothing) below 100 points.
size_t smoothing_window(size_t num_points);

// The numbers as a JSON array rounded to 6 significant digits; non-finite ones as null.
Json to_json_array(const std::vector<double>& values);

// The value rounded to 6 significant digits: enough for a page, and half the size.
double round_significant(double value);

}  // namespace osp
