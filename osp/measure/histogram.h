// A histogram of a stream whose range is not known in advance.
//
// kBins equal bins cover [−range, range), range a power of two. A value outside doubles the range
// until it fits, joining bins in pairs; because every edge of a wider histogram is an edge of the
// narrower one, the counts are the same whatever the order or the partition of the stream.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace osp {

class Histogram {
 public:
  static constexpr int64_t kBins = 512;

  // Counts every number; those that are not finite are counted apart.
  void add(std::span<const float> block);
  void merge(const Histogram& other);

  double range() const { return range_; }
  int64_t count(int64_t bin) const { return counts_[static_cast<size_t>(bin)]; }
  int64_t num_not_finite() const { return not_finite_; }
  double bin_width() const { return 2.0 * range_ / static_cast<double>(kBins); }

  // The occupied part: bins [first, last], empty if nothing was counted.
  struct Occupied {
    double low = 0.0, high = 0.0;
    std::vector<int64_t> counts;
  };
  Occupied occupied() const;

 private:
  void widen_to(double absolute_value);
  void widen_once();

  double range_ = 1.0 / 1024.0;
  std::array<int64_t, kBins> counts_{};
  int64_t not_finite_ = 0;
};

}  // namespace osp
