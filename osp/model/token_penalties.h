// Penalties on tokens that a text has already.
//
// With logit z of a token, c times written in the answer so far:
//   repetition   z / r if z > 0, else z · r, where the token is in the prompt or c > 0
//   then         z − c · frequency − presence where c > 0
// The first is that of Keskar et al. (2019, CTRL), the others are OpenAI's.
//
// Tested by token_penalties_test.cpp and tests/python/test_serve_sampling.py and test_generate.py.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>

#include "osp/base/fields.h"

namespace osp {

struct PenaltyOptions {
  double presence = 0;
  double frequency = 0;
  double repetition = 1;  // above 0

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("presence_penalty", self.presence, Range{-2, 2},
          "number subtracted once from the logit of each token that was generated before");
    visit("frequency_penalty", self.frequency, Range{-2, 2},
          "number subtracted from a token's logit for each time that it was generated before");
    visit(
        "repetition_penalty", self.repetition, Range{kLeastRepetition, kMostRepetition},
        "factor that a positive logit of a token of the prompt or of the text is divided by, and a "
        "negative one multiplied by; 1 = off");
  }
  static constexpr double kLeastRepetition = 0.01, kMostRepetition = 100;

  bool any() const { return presence != 0 || frequency != 0 || repetition != 1; }
};

class TokenPenalties {
 public:
  TokenPenalties(const PenaltyOptions& options, std::span<const int32_t> prompt);

  bool any() const { return options_.any(); }
  void written(int32_t id);
  // Ids beyond the logits are left out.
  void apply(std::span<float> logits) const;

 private:
  const PenaltyOptions options_;
  std::unordered_map<int32_t, int64_t>
      counts_;  // how often a token was written; 0: in the prompt alone
};

}  // namespace osp
