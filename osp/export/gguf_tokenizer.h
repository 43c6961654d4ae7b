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

// Adds the tokenizer to the metadata. Byte-level BPE whose words are cut in one of the ways that
// llama.cpp has a name for; anything else is Error(unsupported) with the component that has no
// equivalent, because llama.cpp would cut text otherwise without saying so. Ids from the
// tokenizer's own vocabulary up to `vocabulary` are filled with unused tokens. `end_tokens` are the
// ids that end a text, of which the first kGgufEndTokens are written. `where` begins the messages.
constexpr int64_t kGgufEndTokens = 3;  // eos, eot, eom
void add_gguf_tokenizer(std::string_view tokenizer_json, int64_t vocabulary,
                        const std::vector<int64_t>& end_tokens, const std::string& where,
                        GgufMetadataWriter& metadata);

}  // namespace osp
