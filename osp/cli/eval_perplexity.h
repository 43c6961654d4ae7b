// The part of `osp eval` that measures perplexity, and divergence from another model.
#pragma once

#include <string>

#include "osp/cli/command.h"

namespace osp {

struct EvalPerplexity {
  std::string model, data, bits;
  std::string divergence_from;  // a model at 16 bits; "": none
  int64_t max_tokens = 0, stride = 0;
  bool bits_given = false;
  bool quiet = false, json = false;
};

// Measures and prints; the exit status.
int run_eval_perplexity(const EvalPerplexity& options);

}  // namespace osp
