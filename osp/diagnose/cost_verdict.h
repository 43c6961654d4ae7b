// What a cost report says in sentences: what outliers cost, what else does, and what to do, which
// is a method, options that need no transform, and bits, each with its number.
#pragma once

#include <string>
#include <vector>

#include "osp/diagnose/cost_report.h"

namespace osp {

// Of the divergence: what gives less of it back is not worth a transform or an option.
inline constexpr double kSmallShare = 0.05;
// Nats a token that a model can lose at the recommended bits: a twentieth of its perplexity.
inline constexpr double kBearableNats = 0.05;

// Four or five sentences; the first is on the tax, the last on bits:
//
//   bits       where the least divergence measured there (the better of the method's basis, the
//              options and the model as it is) is at most kBearableNats
//   wide bits  else, where the model as it is loses at most so much there
//   more       else
std::vector<std::string> cost_verdict(const CostReport& report);

}  // namespace osp
