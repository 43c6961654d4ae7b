#include "osp/report/series.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "osp/base/error.h"

namespace osp {
namespace {

// Appends the lowest and the highest point of [begin, end) in their order.
void add_extremes(const Series& series, size_t begin, size_t end, Series& out) {
  size_t low = end, high = end;
  for (size_t i = begin; i < end; ++i) {
    const double value = series.values[i];
    if (!std::isfinite(value)) continue;
    if (low == end || value < series.values[low]) low = i;
    if (high == end || value > series.values[high]) high = i;
  }
  if (low == end) {
    out.add(series.tokens[begin], kNan);
    return;
  }
  const auto [first, second] = std::minmax(low, high);
  out.add(series.tokens[first], series.values[first]);
  if (second != first) out.add(series.tokens[second], series.values[second]);
}

size_t half_width(size_t index, size_t size, size_t window) {
  return std::min({(window - 1) / 2, index, size - 1 - index});
}

}  // namespace

Series thin(const Series& series, size_t max_points) {
  OSP_CHECK(max_points >= 4, "thin to {} points", max_points);
  const size_t size = series.size();
  if (size <= max_points) return series;
  Series out;
  const size_t groups = (max_points - 2) / 2;
  const size_t inner = size - 2;
  out.add(series.tokens.front(), series.values.front());
  for (size_t g = 0; g < groups; ++g) {
    const size_t begin = 1 + g * inner / groups;
    const size_t end = 1 + (g + 1) * inner / groups;
    if (begin < end) add_extremes(series, begin, end, out);
  }
  out.add(series.tokens.back(), series.values.back());
  return out;
}

Series group_means(const Series& series, size_t max_points) {
  OSP_CHECK(max_points > 0, "a curve of no points");
  const size_t size = series.size();
  if (size <= max_points) return series;
  Series means;
  for (size_t group = 0; group < max_points; ++group) {
    const size_t begin = group * size / max_points, end = (group + 1) * size / max_points;
    double tokens = 0, sum = 0, count = 0;
    for (size_t i = begin; i < end; ++i) {
      tokens += series.tokens[i];
      if (!std::isfinite(series.values[i])) continue;
      sum += series.values[i];
      ++count;
    }
    means.add(tokens / static_cast<double>(end - begin), count > 0 ? sum / count : kNan);
  }
  return means;
}

Series smooth(const Series& series, size_t window) {
  OSP_CHECK(window >= 1, "a window of 0 points");
  const size_t size = series.size();
  std::vector<double> sums(size + 1, 0.0);
  std::vector<size_t> counts(size + 1, 0);
  for (size_t i = 0; i < size; ++i) {
    const bool finite = std::isfinite(series.values[i]);
    sums[i + 1] = sums[i] + (finite ? series.values[i] : 0.0);
    counts[i + 1] = counts[i] + (finite ? 1 : 0);
  }
  Series out;
  for (size_t i = 0; i < size; ++i) {
    const size_t half = half_width(i, size, window);
    const size_t count = counts[i + half + 1] - counts[i - half];
    const double sum = sums[i + half + 1] - sums[i - half];
    out.add(series.tokens[i], count == 0 ? kNan : sum / static_cast<double>(count));
  }
  return out;
}

Series smooth_reference(const Series& series, size_t window) {
  Series out;
  for (size_t i = 0; i < series.size(); ++i) {
    const size_t half = half_width(i, series.size(), window);
    double sum = 0;
    size_t count = 0;
    for (size_t j = i - half; j <= i + half; ++j) {
      if (!std::isfinite(series.values[j])) continue;
      sum += series.values[j];
      ++count;
    }
    out.add(series.tokens[i], count == 0 ? kNan : sum / static_cast<double>(count));
  }
  return out;
}

size_t smoothing_window(size_t num_points) { return num_points < 100 ? 1 : num_points / 50 | 1; }

double round_significant(double value) {
  if (!std::isfinite(value) || value == 0) return value;
  return std::stod(fmt::format("{:.6g}", value));
}

Json to_json_array(const std::vector<double>& values) {
  Json array = Json::array();
  for (const double value : values) {
    if (std::isfinite(value)) {
      array.push_back(round_significant(value));
    } else {
      array.push_back(nullptr);
    }
  }
  return array;
}

}  // namespace osp
