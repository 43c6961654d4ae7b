// The data of `osp eval` and `osp analyze`: token shards (their held-out split where they have one)
// or a file of text, which is read as one sequence without special tokens. The rows of JSON lines
// or Parquet (field "text") are joined by blank lines. Tested by tests/python/test_eval.py.
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
  // A warning for the user, "" if there is none.
  std::string warning;
};

// Reads at most `max_tokens` tokens (0: all) of `data` for the model in `model_dir`. Error(usage)
// if `data` does not exist or a text is given to a model without a tokenizer, Error(unsupported) if
// the text is empty, errors of TokenDataset and Tokenizer otherwise.
TokenSource read_token_source(const std::string& data, const std::string& model_dir,
                              int64_t max_tokens);

// The test text of WikiText-2 as GPTQ and the paper's reference cut it: the hub's rows, in which a
// blank line is an empty row, joined by blank lines and encoded without special tokens. `data` is
// the raw file (wiki.test.raw), the hub's Parquet file or its rows as JSON lines, or a folder with
// one of these. Warns about a text that is not the published one. Errors as read_token_source;
// Error(usage) for a folder without such a file and for the tokenised text with <unk>.
TokenSource read_wikitext2(const std::string& data, const std::string& model_dir);

// Bytes of text of the scored tokens in the first windows: all but the first token of each window.
int64_t scored_bytes(const Tokenizer& tokenizer, std::span<const int64_t> tokens, int64_t window,
                     int64_t windows);

}  // namespace osp
