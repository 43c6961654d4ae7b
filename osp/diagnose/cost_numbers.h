// What the report of costs and its sentences form of their numbers.
#pragma once

#include <fmt/format.h>

#include <cmath>
#include <cstdint>
#include <string>

namespace osp {

// A mean over layers or inputs, of the finite values; NaN without any.
struct LayerMean {
  double sum = 0;
  int64_t count = 0;
  void add(double value) {
    if (!std::isfinite(value)) return;
    sum += value;
    ++count;
  }
  double value() const { return sum / static_cast<double>(count); }
};

// "12.3 %" of 0.123.
inline std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

}  // namespace osp
