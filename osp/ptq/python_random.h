// Python's random.Random(seed).randint, so that calibration windows are those that the reference
// draws: the 32-bit Mersenne Twister (Matsumoto and Nishimura 1998), seeded by init_by_array with
// the words of the seed, and numbers below a bound by rejection of getrandbits.
//
// Tested by calibration_test.cpp.
#pragma once

#include <cstdint>
#include <random>

namespace osp {

class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);

  // A whole number in [low, high], high ≥ low; at most 32 random bits are drawn at a time.
  int64_t randint(int64_t low, int64_t high);

 private:
  std::mt19937 generator_;
};

}  // namespace osp
