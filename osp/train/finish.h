// The end of a run: the fused model, checked against the unfused one.
//
// Tested by osp/train/loop_test.cpp and tests/python/test_train.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "osp/data/dataset.h"
#include "osp/model/fuse.h"
#include "osp/train/state.h"

namespace osp {

struct FinishedModel {
  std::string path;            // RUN/model
  LogitDifference difference;  // between the fused and the unfused model's logits, both in fp32
};

// The first tokens of the data, [B, T] with at most 2 sequences, to compare logits on.
at::Tensor first_sequences(const TrainState& state, const TokenDataset& data);

// Behind the last checkpoint: gives back the optimizer state and the sums of groups of sequences.
void forget_optimizers(TrainState& state);

// Then, with all masters on the first rank: gives back gradients and what a rank owns. What follows
// takes up to 12 bytes a parameter beside the weights of the passes, less than training does on one
// rank, and more than it may on one of many.
void forget_training(TrainState& state);

// Fuses EmbProj and norms, compares logits on `tokens_BT`, and writes RUN/model as a whole (over an
// older one).
FinishedModel write_model(const TrainState& state, const std::string& run,
                          const std::string& tokenizer_json, const at::Tensor& tokens_BT);

}  // namespace osp
