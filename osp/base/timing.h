// What benches and speed tests have in common.
#pragma once

#include <chrono>
#include <vector>

namespace osp {

// The middle one of sorted values, the mean of the middle two if they are even in number; at least
// one value.
double median(std::vector<double> values);

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Seconds that all threads of this process have worked so far, which other programs on the machine
// disturb less than the clock.
double process_cpu_seconds();

}  // namespace osp
