// From logits to the next token: greedy, temperature, top-k, top-p.
#pragma once

#include <cstdint>
#include <span>

#include "osp/base/fields.h"

namespace osp {

struct SamplingOptions {
  double temperature = 0;  // logits are divided by it; 0: always the most likely token
  int64_t top_k = 0;       // only the k most likely tokens; 0: all
  double top_p = 1;        // only the fewest most likely tokens whose probabilities reach p
  double min_p = 0;        // only tokens with this part of the most likely one's probability

  // Ranges are checked by check_sampling(), for callers without a command line too.
  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Sampling");
    visit("temperature", self.temperature, Range{},
          "temperature that divides the logits before a token is drawn; 0 = always take the most "
          "likely token");
    visit("top_k", self.top_k, Range{}, "number of most likely tokens to draw from; 0 = all");
    visit("top_p", self.top_p, Range{},
          "total probability of the most likely tokens to draw from; 1 = all");
    visit("min_p", self.min_p, Range{},
          "least probability of a token to draw, as a part of the most likely one's; 0 = all");
  }
};

// Error(usage) that names the option that is out of range.
void check_sampling(const SamplingOptions& options);

// The next token's id. `uniform` in [0, 1) is the one random number that it uses. The order of the
// cuts is temperature, top-k, min-p, top-p (of what is left); equal logits are ordered by id.
// Error(damaged) if no logit is finite or one is NaN or +infinity (weights that hold such values).
int32_t sample_token(std::span<const float> logits, const SamplingOptions& options, double uniform);

}  // namespace osp
