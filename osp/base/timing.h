// Clocks in seconds, and the median of repeated measurements.
#pragma once

#include <chrono>
#include <vector>

namespace osp {

// The middle one of sorted values, the mean of the middle two if they are even in number; at least
// one value.
double median(std::vector<double> values);

// The monotonic clock, in seconds from an arbitrary moment on.
double clock_seconds();

// The calendar's time, in seconds since 1970.
double wall_clock_seconds();

inline double seconds_between(std::chrono::steady_clock::time_point start,
                              std::chrono::steady_clock::time_point end) {
  return std::chrono::duration<double>(end - start).count();
}

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return seconds_between(start, std::chrono::steady_clock::now());
}

// Seconds that all threads of this process have worked so far, which other programs on the machine
// disturb less than the clock.
double process_cpu_seconds();

}  // namespace osp
