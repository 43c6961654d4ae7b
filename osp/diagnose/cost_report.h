// The cost of 4 bits for a model, and its reasons: the outlier tax, which quantizer does the
// damage, what the matrices make of noise, options that give some of it back, and dose and
// response. One call for `osp analyze`; JSON (docs/formats.md, "cost") and tables, which end with
// the sentences of cost_verdict.h.
//
// Tested by tests/python/test_outlier_tax.py.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/fields.h"
#include "osp/base/json.h"
#include "osp/diagnose/attribution.h"
#include "osp/diagnose/basis_response.h"
#include "osp/diagnose/linear_noise.h"
#include "osp/diagnose/outlier_tax.h"
#include "osp/diagnose/remedies.h"
#include "osp/quant/noise_tap.h"

namespace osp {

struct CostOptions {
  int64_t tokens = 8192;
  int64_t attribution_tokens = 1024;
  int64_t rotations = 3;
  std::string bits = "4-4-4";
  std::function<void(const std::string& phase, int64_t done, int64_t total)> progress = {};

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Cost of few bits");
    visit("cost_bits", self.bits, "bit widths W-A-KV whose cost is measured", {.value = "W-A-KV"});
    visit("cost_tokens", self.tokens, Range{0, 1099511627776.0},
          "number of tokens at the start of --data on which the outlier tax and the damage in "
          "other bases are measured, in whole windows; 0 = not measured");
    visit("attribution_tokens", self.attribution_tokens, Range{0, 1099511627776.0},
          "number of tokens on which every quantizer is switched on alone; their predictions are "
          "held in memory; 0 = not measured");
    visit("rotations", self.rotations, Range{1, 1000},
          "random rotations that the outlier tax is measured with");
  }
};

struct CostReport {
  OutlierTax tax;
  Attribution attribution;  // no sites: not asked for
  std::vector<LinearNoise> linears;
  std::map<std::pair<TapPoint, int64_t>, QuantizationNoise> noise;  // of inputs, own basis
  std::map<std::pair<TapPoint, int64_t>, double> mean_shares;       // of the same
  std::vector<Remedy> remedies;  // empty: inputs are not integers of few bits
  std::vector<BasisPoint> bases;
};

// Takes the model, which must not be quantized. Errors as parse_bits and measure_perplexity.
CostReport measure_cost(ParameterStore store, std::span<const int64_t> tokens,
                        const CostOptions& options);

Json tax_json(const OutlierTax& tax);
// A line on the tax and one on its halves, where it was split; without a newline at the end.
std::string tax_text(const OutlierTax& tax);
Json cost_json(const CostReport& report);
std::string cost_text(const CostReport& report);

}  // namespace osp
