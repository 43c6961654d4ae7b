// Timing of repeated work, for the micro-benchmarks of this folder.
#pragma once

#include <functional>
#include <vector>

#include "osp/base/timing.h"

namespace osp {

// Median times by that clock of several pieces of work done in turn; the first round of each warms
// up and is not counted.
inline std::vector<double> median_seconds(const std::vector<std::function<void()>>& works,
                                          int repetitions, double (*clock)() = clock_seconds) {
  std::vector<std::vector<double>> times(works.size());
  for (int i = 0; i <= repetitions; ++i) {
    for (size_t w = 0; w < works.size(); ++w) {
      const double start = clock();
      works[w]();
      if (i > 0) times[w].push_back(clock() - start);
    }
  }
  std::vector<double> medians;
  for (const std::vector<double>& of_one : times) medians.push_back(median(of_one));
  return medians;
}

}  // namespace osp
