// What options of `osp quantize` that need no transform give back of the damage, in the model's own
// basis and rounded to nearest:
//
//   --down-group N           a grid for each N channels of the down projection's input, which does
//                            what the Hadamard in front of it does without one at run time
//   --mean-offset residual   the mean over tokens of what q, k, v, gate and up read is subtracted
//                            before rounding and added again
//   both
//
// The means are those of the measured text itself; `osp quantize` takes them from calibration
// windows.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "osp/diagnose/turned_model.h"
#include "osp/quant/activation_grids.h"

namespace osp {

struct RemedyOptions {
  BitWidths bits{4, 4, 4};
  int64_t max_tokens = 0;   // as TaxOptions
  InputOffsets means = {};  // of the readers' inputs; empty: no offset is measured
  std::function<void(int64_t done, int64_t total)> progress = {};  // measurements
};

struct Remedy {
  ActivationGroups groups = {};
  MeanOffset offset = MeanOffset::none;
  double kl = 0;  // nats per token

  // As on the command line: "--down-group 64 --mean-offset residual".
  std::string options() const;
};

// Channels of a group at the down projection: 64, or the largest smaller power of two from 8 on
// that divides all inner sizes; 0: there is none.
int64_t remedy_group(const ModelConfig& config);

// Up to three, in the order above; empty where inputs keep 16 bits or are floating-point numbers.
// The model is as it was trained. Errors as measure_divergence.
std::vector<Remedy> measure_remedies(const TurnedModel& model, std::span<const int64_t> tokens,
                                     const RemedyOptions& options);

}  // namespace osp
