#include "osp/measure/point_profile.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

#include "osp/base/error.h"

namespace osp {
namespace {

struct ZeroRange {
  float low = 0, high = 0;
};

ZeroRange range_with_zero(std::span<const float> x) {
  float low = 0, high = 0;
  const float* data = x.data();
  const int64_t count = static_cast<int64_t>(x.size());
#pragma omp simd reduction(min : low) reduction(max : high)
  for (int64_t i = 0; i < count; ++i) {
    low = std::min(low, data[i]);
    high = std::max(high, data[i]);
  }
  return {low, high};
}

bool is_larger(const PlacedActivation& a, const PlacedActivation& b) {
  const float x = std::abs(a.value), y = std::abs(b.value);
  return x != y ? x > y
                : std::tie(a.sequence, a.position, a.channel) <
                      std::tie(b.sequence, b.position, b.channel);
}

}  // namespace

int64_t find_largest(std::span<const float> row) {
  const ZeroRange range = range_with_zero(row);
  const float largest = std::max(range.high, -range.low);
  for (size_t i = 0; i < row.size(); ++i) {
    if (std::abs(row[i]) == largest) return static_cast<int64_t>(i);
  }
  return 0;  // only NaN
}

double step_share(std::span<const float> row, int64_t largest) {
  const size_t place = static_cast<size_t>(largest);
  const ZeroRange before = range_with_zero(row.first(place));
  const ZeroRange behind = range_with_zero(row.subspan(place + 1));
  const double low = std::min(before.low, behind.low), high = std::max(before.high, behind.high);
  const double value = row[place];
  const double full = std::max(high, value) - std::min(low, value);
  return full > 0.0 ? 1.0 - (high - low) / full : 0.0;
}

double step_share_reference(std::span<const float> row) {
  size_t largest = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    if (std::abs(row[i]) > std::abs(row[largest])) largest = i;
  }
  double low = 0, high = 0, all_low = 0, all_high = 0;
  for (size_t i = 0; i < row.size(); ++i) {
    const double x = row[i];
    all_low = std::min(all_low, x);
    all_high = std::max(all_high, x);
    if (i == largest) continue;
    low = std::min(low, x);
    high = std::max(high, x);
  }
  return all_high > all_low ? 1.0 - (high - low) / (all_high - all_low) : 0.0;
}

PointProfile::Layout PointProfile::layout_of(const at::Tensor& x, int64_t first_sequence) {
  OSP_CHECK(x.dim() == 3 || x.dim() == 4, "{} dimensions at a tap point", x.dim());
  return {.heads = x.dim() == 4 ? x.size(1) : 1,
          .length = x.size(-2),
          .width = x.size(-1),
          .first_sequence = first_sequence};
}

void PointProfile::add(const Layout& layout, int64_t first_row, std::span<const float> rows,
                       std::span<const RowStatistics> per_row) {
  const int64_t count = static_cast<int64_t>(per_row.size());
  std::vector<double> shares(per_row.size());
  std::vector<int64_t> places(per_row.size());
  at::parallel_for(0, count, std::max<int64_t>(1, 16384 / layout.width),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t i = begin; i < end; ++i) {
                       const auto row = rows.subspan(i * layout.width, layout.width);
                       places[i] = find_largest(row);
                       shares[i] = osp::step_share(row, places[i]);
                     }
                   });
  for (int64_t i = 0; i < count; ++i) {
    const RowStatistics& row = per_row[static_cast<size_t>(i)];
    step_share_sum_ += shares[i];
    if (row.moments.m2 != 0.0) {
      kurtosis_.add(excess_kurtosis(row.moments));
      clipped_.add(clipped_kurtosis(row.moments));
    }
    const int64_t index = first_row + i, head = index / layout.length % layout.heads;
    keep({.value = rows[i * layout.width + places[i]],
          .sequence = layout.first_sequence + index / (layout.length * layout.heads),
          .position = index % layout.length,
          .channel = head * layout.width + places[i]});
  }
  rows_ += count;
  add_channels(layout, first_row, rows);
}

void PointProfile::add_channels(const Layout& layout, int64_t first_row,
                                std::span<const float> rows) {
  heads_ = layout.heads;
  squares_.resize(static_cast<size_t>(layout.heads * layout.width));
  const int64_t count = static_cast<int64_t>(rows.size()) / layout.width;
  // A channel belongs to one thread: the sums do not depend on the number of threads.
  at::parallel_for(0, layout.width, 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < count; ++i) {
      const int64_t head = (first_row + i) / layout.length % layout.heads;
      double* sums = squares_.data() + head * layout.width;
      const float* row = rows.data() + i * layout.width;
      for (int64_t c = begin; c < end; ++c) sums[c] += double(row[c]) * double(row[c]);
    }
  });
}

void PointProfile::keep(const PlacedActivation& candidate) {
  if (largest_.size() == kLargestPerPoint && !is_larger(candidate, largest_.back())) return;
  largest_.insert(std::upper_bound(largest_.begin(), largest_.end(), candidate, is_larger),
                  candidate);
  if (largest_.size() > kLargestPerPoint) largest_.pop_back();
}

void PointProfile::merge(const PointProfile& other) {
  if (other.rows_ == 0) return;
  rows_ += other.rows_;
  heads_ = other.heads_;
  step_share_sum_ += other.step_share_sum_;
  kurtosis_.merge(other.kurtosis_);
  clipped_.merge(other.clipped_);
  squares_.resize(other.squares_.size());
  for (size_t c = 0; c < squares_.size(); ++c) squares_[c] += other.squares_[c];
  for (const PlacedActivation& one : other.largest_) keep(one);
}

std::vector<double> PointProfile::channel_rms() const {
  std::vector<double> rms;
  const double tokens = static_cast<double>(rows_) / static_cast<double>(heads_);
  for (const double sum : squares_) rms.push_back(std::sqrt(sum / tokens));
  return rms;
}

}  // namespace osp
