// Times of repeated work, for the benches of this folder.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

namespace osp {

inline double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Medians of several pieces of work done in turn; the first round of each warms up and is not
// counted.
inline std::vector<double> median_seconds(const std::vector<std::function<void()>>& works,
                                          int repetitions) {
  std::vector<std::vector<double>> times(works.size());
  for (int i = 0; i <= repetitions; ++i) {
    for (size_t w = 0; w < works.size(); ++w) {
      const double seconds = seconds_of(works[w]);
      if (i > 0) times[w].push_back(seconds);
    }
  }
  std::vector<double> medians;
  for (std::vector<double>& of_one : times) {
    std::ranges::sort(of_one);
    medians.push_back(of_one[of_one.size() / 2]);
  }
  return medians;
}

}  // namespace osp
