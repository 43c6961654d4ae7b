// Watching a run from outside: validation on a fixed slice, with the outlier measurement, and
// samples of text. Nothing here changes the state.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/data/dataset.h"
#include "osp/data/tokenizer.h"
#include "osp/train/state.h"

namespace osp {

// The first windows of context + 1 tokens of the validation split, in order: the same in every run
// on the same data.
Batch read_validation(const Recipe& recipe, const TokenDataset& validation);

// Mean loss over the slice's scored tokens.
double validation_loss(const TrainState& state, const Batch& slice);

// Loss, perplexity, kurtosis, largest activation, largest attention logit and gains, as in a line
// of metrics.jsonl. `tokenizer` names the token of the largest activation; null for data without
// one.
Json validate(const TrainState& state, const Batch& slice, const Tokenizer* tokenizer);

// A greedy continuation of train.sample_prompt.
std::string sample_text(const TrainState& state, const Tokenizer& tokenizer);

}  // namespace osp
