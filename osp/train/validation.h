// Validation of a run on a fixed slice, with the outlier measurement, and samples of text. Nothing
// here changes the state.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/data/batch.h"
#include "osp/model/tap.h"
#include "osp/tokenizer/tokenizer.h"
#include "osp/train/state.h"

namespace osp {

// The first windows of context + 1 tokens of the validation split, in order: the same in every run
// on the same data. Of a mixture each source's first windows, as many as its share of
// train.validation_tokens, at least one and at most all; `parts` says which are whose.
Batch read_validation(const Recipe& recipe, const Mixture& validation);

// Mean loss over the slice's scored tokens; `tap` may be null.
double validation_loss(const TrainState& state, const Batch& slice, Tap* tap = nullptr);

// Loss, perplexity, kurtosis, largest activation, largest attention logit and gains, as in a line
// of metrics.jsonl; with quantization-aware training also the loss under the quantizers of
// `osp eval`, and of a mixture the loss of each source. `tokenizer` names the token of the largest
// activation; null for data without one.
Json validate(const TrainState& state, const Batch& slice, const Tokenizer* tokenizer);

// A greedy continuation of train.sample_prompt.
std::string sample_text(const TrainState& state, const Tokenizer& tokenizer);

}  // namespace osp
