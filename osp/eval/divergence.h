// Two models on the same text: perplexity of both and the Kullback–Leibler divergence of their
// predictions, p of the original and q of the changed model,
//
//   KL = mean over scored positions of Σ_v p(v) (log p(v) − log q(v))
//
// in nats, from fp32 logits, with its distribution over the positions. Windows are those of
// osp/eval/perplexity.h. On demand also the relative error of the last state: with h and h' the
// residual stream behind the last block (in front of the final norm) of the original and of the
// changed model,
//
//   R_L = mean over scored positions of ‖h' − h‖² / ‖h‖²
//
// the error at the last layer of Vlassis et al., "Beyond Outliers", ICLR 2026 (arXiv 2509.23500).
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

inline constexpr int64_t kMostStateBytes = int64_t{1} << 30;

struct DivergenceOptions {
  int64_t window = 0;      // 0: min(2048, trained context)
  int64_t max_tokens = 0;  // 0: all; otherwise as many whole windows as fit, at least one
  Tap* original_tap = nullptr;
  Tap* changed_tap = nullptr;
  // Final states of the original, one per batch of windows; filled where it is empty and used where
  // it is not, for whoever compares several models with one original on the same tokens. At most
  // kMostStateBytes of them are kept; the original runs again on the windows behind.
  std::vector<at::Tensor>* original_states = nullptr;
  // Measure state_error too. Both models have one basis of the residual stream, and the original
  // runs on all windows, whether its states are known or not.
  bool state_error = false;
  std::function<void(int64_t done, int64_t total)> progress = {};  // windows
};

struct DivergenceResult {
  double original_loss = 0.0, changed_loss = 0.0;  // nats per scored token
  double divergence = 0.0;                         // nats per scored token, the mean
  // Quantiles over the scored positions, by nearest rank: a few tokens may carry most of the mean.
  double divergence_median = 0.0, divergence_95 = 0.0, divergence_99 = 0.0;
  double same_choice = 0.0;  // share of positions where both find the same token most likely
  // R_L, a share of energy: 0 where both states are equal. NaN where it was not asked for, where an
  // engine ran, which shows no state, and where a state of the original is all zeros.
  double state_error = std::numeric_limits<double>::quiet_NaN();
  int64_t tokens = 0;  // scored
  int64_t window = 0, windows = 0;

  double original_perplexity() const;
  double changed_perplexity() const;
};

// Errors as measure_perplexity. Both models have the same vocabulary and context.
DivergenceResult measure_divergence(const ParameterStore& original, const ParameterStore& changed,
                                    std::span<const int64_t> tokens,
                                    const DivergenceOptions& options = {});

}  // namespace osp
