// Which quantizer costs what: the divergence with one switched on, and with all but one.
//
//   only      KL with this quantizer alone
//   without   KL with all quantizers but this one; all − without is what it adds to the others
//
// per site (all layers), per layer (all sites) and, alone, per site of each layer. The sums of
// `only` do not add up to the whole: errors meet in the softmax and in each other.
//
// Tested by outlier_tax_test.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "osp/diagnose/turned_model.h"

namespace osp {

struct AttributionOptions {
  BitWidths bits{4, 4, 4};
  int64_t max_tokens = 1024;  // in whole windows; their predictions are held in memory; 0: all
  std::function<void(int64_t done, int64_t total)> progress = {};  // forward passes
};

struct SiteCost {
  QuantSite site;
  double only = 0, without = 0;
};
struct LayerCost {
  int64_t layer = 0;
  double only = 0, without = 0;
  std::vector<double> only_site;  // in the order of kQuantSites
};

struct Attribution {
  int64_t tokens = 0;
  double all = 0;  // KL with every quantizer, nats per token
  std::vector<SiteCost> sites;
  std::vector<LayerCost> layers;
};

// Scores every token of each window. Passes begin at the first layer whose quantizer is on: the
// 16-bit states in front of every layer are kept. Errors as measure_divergence.
Attribution attribute_damage(const TurnedModel& model, std::span<const int64_t> tokens,
                             const AttributionOptions& options = {});

}  // namespace osp
