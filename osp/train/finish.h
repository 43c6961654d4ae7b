// What a finished run leaves: the fused model, checked against the unfused one.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "osp/data/dataset.h"
#include "osp/model/fuse.h"
#include "osp/train/state.h"

namespace osp {

struct FinishedModel {
  std::string path;            // RUN/model
  LogitDifference difference;  // of the fused model's logits from the unfused one's, both in fp32
};

// The first tokens of the data, [B, T] with at most 2 sequences, to compare logits on.
at::Tensor check_tokens(const TrainState& state, const TokenDataset& data);

// Fuses EmbProj and norms, compares logits on `tokens_BT`, and writes RUN/model as a whole (over an
// older one).
FinishedModel write_model(const TrainState& state, const std::string& run,
                          const std::string& tokenizer_json, const at::Tensor& tokens_BT);

}  // namespace osp
