// What benches and speed tests have in common.
#pragma once

#include <vector>

namespace osp {

// The middle one of sorted values, the mean of the middle two if they are even in number; at least
// one value.
double median(std::vector<double> values);

// Seconds that all threads of this process have worked so far, which other programs on the machine
// disturb less than the clock.
double process_cpu_seconds();

}  // namespace osp
