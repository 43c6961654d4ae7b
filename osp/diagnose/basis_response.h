// Dose and response: the same function in other bases of its residual stream. Kurtosis is moved by
// a rotation alone, and the damage at few bits follows it or not.
//
//   own         the model's basis, gains of norms folded
//   principal   principal axes of what the readers get (all layers together) on the channels: about
//               the most outliers that this function can have
//   mixed b     each b neighbouring principal axes mixed by a random Hadamard rotation, b = 4, 16,
//               64 … as far as it divides the width, and the width itself
//
// R4 stands in front of the down projection in all of them, as in the outlier tax.
//
// Tested by outlier_tax_test.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "osp/diagnose/turned_model.h"

namespace osp {

struct BasisOptions {
  BitWidths bits{4, 4, 4};
  int64_t max_tokens = 0;
  uint64_t seed = 0;
  std::function<void(int64_t done, int64_t total)> progress = {};  // bases
};

struct BasisPoint {
  std::string basis;           // "own", "principal", "mixed"
  int64_t block = 0;           // of mixed
  double reader_kurtosis = 0;  // excess, mean over tokens of the inputs of q k v and gate up
  double kl = 0, added_nats = 0;
};

// The model must have R4 and folded norms (as measure_outlier_tax leaves it); it is left in the
// last basis. Empty for LayerNorm, whose rotations must keep the mean over channels.
std::vector<BasisPoint> measure_bases(TurnedModel& model, std::span<const int64_t> tokens,
                                      const BasisOptions& options = {});

}  // namespace osp
