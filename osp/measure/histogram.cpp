#include "osp/measure/histogram.h"

#include <algorithm>
#include <cmath>

namespace osp {

void Histogram::widen_once() {
  std::array<int64_t, kBins> wider{};
  for (int64_t bin = 0; bin < kBins; ++bin) {
    wider[static_cast<size_t>(kBins / 4 + bin / 2)] += counts_[static_cast<size_t>(bin)];
  }
  counts_ = wider;
  range_ *= 2.0;
}

void Histogram::widen_to(double absolute_value) {
  while (absolute_value >= range_) widen_once();
}

void Histogram::add(std::span<const float> block) {
  float largest = 0.0f;
  for (const float x : block) {
    if (std::isfinite(x)) largest = std::max(largest, std::abs(x));
  }
  widen_to(largest);
  const double bins_per_unit =
      static_cast<double>(kBins) / (2.0 * range_);  // a power of two: exact
  for (const float x : block) {
    if (!std::isfinite(x)) {
      ++not_finite_;
      continue;
    }
    const int64_t bin = static_cast<int64_t>(std::floor(x * bins_per_unit)) + kBins / 2;
    ++counts_[static_cast<size_t>(bin)];
  }
}

void Histogram::merge(const Histogram& other) {
  Histogram narrower = other;
  while (narrower.range_ < range_) narrower.widen_once();
  while (range_ < narrower.range_) widen_once();
  for (size_t bin = 0; bin < counts_.size(); ++bin) counts_[bin] += narrower.counts_[bin];
  not_finite_ += other.not_finite_;
}

Histogram::Occupied Histogram::occupied() const {
  const auto filled = [](int64_t count) { return count != 0; };
  const auto first = std::find_if(counts_.begin(), counts_.end(), filled);
  if (first == counts_.end()) return {};
  const auto last = std::find_if(counts_.rbegin(), counts_.rend(), filled).base();
  Occupied result;
  result.low = -range_ + bin_width() * static_cast<double>(first - counts_.begin());
  result.high = -range_ + bin_width() * static_cast<double>(last - counts_.begin());
  result.counts.assign(first, last);
  return result;
}

}  // namespace osp
