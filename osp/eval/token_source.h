// What --data of `osp eval` and `osp analyze` names: token shards (their held-out split where they
// have one) or a file of text, which is one sequence without special tokens; the rows of JSON lines
// or Parquet (field "text") are joined by blank lines.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "osp/tokenizer/tokenizer.h"

namespace osp {

struct TokenSource {
  std::vector<int64_t> tokens;
  // The model's tokenizer, absent if the model dir has none (shards can be scored without).
  std::optional<Tokenizer> tokenizer;
  // Something that the user should know, "" if nothing.
  std::string warning;
};

// Reads at most `max_tokens` tokens (0: all) of `data` for the model in `model_dir`. Error(usage)
// if `data` does not exist or a text is given to a model without a tokenizer, Error(unsupported) if
// the text is empty, errors of TokenDataset and Tokenizer otherwise.
TokenSource read_token_source(const std::string& data, const std::string& model_dir,
                              int64_t max_tokens);

// Bytes of text that the scored tokens of the first windows stand for: all but the first of each.
int64_t scored_bytes(const Tokenizer& tokenizer, std::span<const int64_t> tokens, int64_t window,
                     int64_t windows);

}  // namespace osp
