// A tokenizer.json as the metadata tokenizer.ggml.* of a GGUF file.
//
// Tested by tests/python/test_gguf_export.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "osp/formats/gguf_writer.h"

namespace osp {

// Values of tokenizer.ggml.token_type.
inline constexpr int32_t kGgufNormal = 1, kGgufUnknown = 2, kGgufControl = 3, kGgufUserDefined = 4,
                         kGgufUnused = 5, kGgufByte = 6;
constexpr int64_t kGgufEndTokens = 3;  // eos, eot, eom

// Adds the tokenizer to the metadata: byte-level BPE whose words are cut in one of the ways that
// llama.cpp has a name for, or SentencePiece's BPE (gguf_sentencepiece.h). Anything else is
// Error(unsupported) with the component that has no equivalent, because llama.cpp would cut text
// otherwise without saying so. Ids from the tokenizer's own vocabulary up to `vocabulary` are
// filled with unused tokens. `end_tokens` are the ids that end a text, of which the first
// kGgufEndTokens are written. `where` begins the messages. Returns sentences about texts that
// llama.cpp cuts otherwise all the same.
std::vector<std::string> add_gguf_tokenizer(std::string_view tokenizer_json, int64_t vocabulary,
                                            const std::vector<int64_t>& end_tokens,
                                            const std::string& where, GgufMetadataWriter& metadata);

// Error(unsupported): "WHERE: the tokenizer has WHAT, for which llama.cpp has no name …".
[[noreturn]] void no_gguf_equivalent(const std::string& where, const std::string& what);

}  // namespace osp
