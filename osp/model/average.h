// The mean of the weights of several checkpoints of one run: in place of a decay of the learning
// rate, which it equals in quality while it makes a model more robust to rounding (Catalan-Tatjer
// et al. 2025, arXiv 2510.06213).
//
//   w = Σ_k w_k / n      in fp64, rounded once to fp32
#pragma once

#include <string>
#include <vector>

#include "osp/model/parameters.h"

namespace osp {

// The mean of model dirs or checkpoints. Holds one model and, of the others, one part at a time,
// however many there are. Error(usage) for fewer than two and, before any tensor is read, for a
// model whose configuration differs from that of the first, naming both and the first key that
// differs; those of open_model.
ParameterStore average_models(const std::vector<std::string>& paths);

}  // namespace osp
