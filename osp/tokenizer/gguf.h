// The tokenizer of a GGUF file: its metadata tokenizer.ggml.* as the text of a tokenizer.json.
//
// Two models are read. "gpt2" is byte-level BPE with merges; tokenizer.ggml.pre names how text is
// cut into words, by llama.cpp's list of names. "llama" is SentencePiece's BPE, whose merges follow
// from the scores: of all adjacent pairs that make a token, the one with the largest score first.
#pragma once

#include <string>
#include <string_view>

#include "osp/base/json.h"
#include "osp/formats/gguf.h"

namespace osp {

// True if the file has a tokenizer at all.
bool gguf_has_tokenizer(const GgufMetadata& metadata);

// The tokenizer as tokenizer.json. Error(unsupported) names an unknown model or pre-tokenizer,
// Error(damaged) the key that is missing or contradicts another. Control tokens become special
// tokens, user-defined ones added tokens; a token before or after the text that the metadata asks
// for becomes the post-processor's template.
std::string gguf_tokenizer_json(const GgufMetadata& metadata);

// The "pre_tokenizer" of tokenizer.json for a name in tokenizer.ggml.pre, null for an unknown name.
Json gguf_pre_tokenizer(std::string_view name);
// Whether llama.cpp, under this name, takes a word that is a token without merging
// (ignore_merges), and puts the first token in front of texts where the file does not say.
bool gguf_takes_whole_words(std::string_view name);
// The name under which llama.cpp cuts text as this "pre_tokenizer" of tokenizer.json does, with or
// without ignore_merges; "" if there is none.
std::string_view gguf_pre_tokenizer_name(const Json& pre_tokenizer, bool whole_words);
// All names, for messages.
std::string gguf_pre_tokenizer_names();

}  // namespace osp
