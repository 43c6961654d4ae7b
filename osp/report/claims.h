// The paper's claims, judged by the models of a report. claims.json lists what the paper
// says, where, and how it is judged: an object of "source", "models" (recipes by name) and
// "claims", each with
//   "says", "reference", "number" (which one is needed), "of" and, for a comparison, "against"
//   (names of models), and a rule:
//     "size below": |number| < limit · "at least": number >= limit
//     "less", "more": the number of "of" is less or more than that of "against"
//     "times": that of "against" >= factor * max(|that of "of"|, floor)
//     "share": that of "of" >= factor * that of "against"
//   "same_rate" and "same_machine" restrict "against" to runs of that kind.
// Every model of one side is held against every one of the other. Models are told apart by
// their recipes.
#pragma once

#include <string>
#include <vector>

#include "osp/report/run_data.h"

namespace osp {

enum class ClaimState { shown, not_shown, not_measured };

struct Claim {
  ClaimState state = ClaimState::not_measured;
  std::string says = {};
  std::string reference = {};
  std::string judged = {};  // the rule in words
  std::string found = {};   // the numbers, or what is missing
};

// All claims of claims.json, in its order.
std::vector<Claim> judge_claims(const std::vector<RunData>& runs);

// Where the claims are from.
std::string claims_source();

// The paper's numbers beside those of this report's models of the same recipes (means), as HTML; ""
// where no model has such a recipe.
std::string published_section(const std::vector<RunData>& runs);

}  // namespace osp
