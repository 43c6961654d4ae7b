// Perplexity of one long sequence of tokens, cut into windows.
//
// Windows of W = min(2048, trained context) tokens follow each other without overlap; a tail that
// fills no window is dropped; all but the first token of each window are scored:
//   perplexity = exp( 1 / (N (W − 1)) Σ_windows Σ_{t=1}^{W−1} −log p(x_t | x_0 … x_{t−1}) )
// With a stride S < W the windows overlap: window i begins at token i S and only its last S tokens
// are scored (in the first window all but one), so that every token after the first W − 1 has at
// least W − S tokens of context. Each token is scored once either way. The loss is computed in fp32
// and summed over batches in fp64.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "osp/base/fields.h"
#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

struct PerplexityOptions {
  int64_t window = 0;           // 0: min(2048, trained context)
  int64_t stride = 0;           // tokens from the start of a window to the next; 0: the window
  int64_t batch_tokens = 8192;  // per forward pass, at least one window
  int64_t max_tokens = 0;       // 0: all; otherwise as many whole windows as fit, at least one
  Tap* tap = nullptr;           // e.g. FakeQuantTap
  std::function<void(int64_t done, int64_t total)> progress;  // windows

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Perplexity");
    visit("data_tokens", self.max_tokens, Range{0, 1099511627776.0},
          "number of tokens at the start of --data to score, in whole windows; 0 = all",
          {.formerly = "max_tokens"});
    visit("stride", self.stride, Range{0, 1099511627776.0},
          "distance between the starts of consecutive windows, less than a window to make them "
          "overlap; 0 = the window's length",
          {.unit = "tokens"});
  }
};

struct PerplexityResult {
  double loss = 0.0;  // nats per scored token
  double perplexity = 0.0;
  int64_t tokens = 0;  // scored
  int64_t window = 0, stride = 0, windows = 0;
  double seconds = 0.0;
};

// The window for a model with this trained context: min(2048, context).
int64_t perplexity_window(int64_t trained_context);

// Error(damaged) naming the first id that is not below the vocabulary.
void check_token_ids(std::span<const int64_t> tokens, int64_t vocabulary);

// Error(unsupported) if the tokens fill no window, Error(damaged) if an id is not below the model's
// vocabulary, Error(usage) if the stride is longer than the window.
PerplexityResult measure_perplexity(const ParameterStore& store, std::span<const int64_t> tokens,
                                    const PerplexityOptions& options = {});

}  // namespace osp
