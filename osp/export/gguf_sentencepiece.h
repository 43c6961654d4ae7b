// SentencePiece's BPE of a tokenizer.json, whose merges have an order, as the "llama" tokenizer of
// GGUF, whose tokens have scores.
//
// llama.cpp joins any two neighbours that make a token, the pair with the largest score first.
// Scores can say the order of merges if all cuts of a token into two others are merges, one behind
// the other: the score of a token is then minus the place of its merges. That is how merges are
// made from SentencePiece's own files.
//
// Added tokens that merges make are those of SentencePiece's user-defined symbols, as in Gemma:
// line breaks and tags are cut out of a text in front of all merges in both programs, so that the
// merges of tokens with them are never asked for; runs of U+2581 are made by merges.
//
// Tested by tests/python/test_gguf_sentencepiece.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// True for a tokenizer whose model has byte fallback, which SentencePiece's BPE has and byte-level
// BPE has not.
bool is_sentencepiece(const Json& tokenizer_json);

struct SentencePiece {
  std::vector<float> scores;          // one per token
  std::vector<int32_t> types;         // llama.cpp's
  int64_t unknown = -1;               // the id of the unknown token, -1 without one
  bool space_prefix = true;           // a text begins with a space that it has not
  std::vector<std::string> warnings;  // where llama.cpp cuts some texts otherwise
};

// `tokens` and `types` of all ids, added ones marked. Error(unsupported) with what llama.cpp has no
// equivalent of; `where` begins the message.
SentencePiece sentencepiece_of(const Json& tokenizer_json, const std::vector<std::string>& tokens,
                               const std::vector<int32_t>& types, const std::string& where);

}  // namespace osp
