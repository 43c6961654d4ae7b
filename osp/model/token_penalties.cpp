#include "osp/model/token_penalties.h"

namespace osp {

TokenPenalties::TokenPenalties(const PenaltyOptions& options, std::span<const int32_t> prompt)
    : options_(options) {
  if (options.repetition == 1) return;
  for (const int32_t id : prompt) counts_.emplace(id, 0);
}

void TokenPenalties::written(int32_t id) {
  if (any()) ++counts_[id];
}

void TokenPenalties::apply(std::span<float> logits) const {
  for (const auto& [id, count] : counts_) {
    if (static_cast<size_t>(id) >= logits.size()) continue;
    double logit = logits[static_cast<size_t>(id)];
    logit = logit > 0 ? logit / options_.repetition : logit * options_.repetition;
    if (count > 0) logit -= static_cast<double>(count) * options_.frequency + options_.presence;
    logits[static_cast<size_t>(id)] = static_cast<float>(logit);
  }
}

}  // namespace osp
