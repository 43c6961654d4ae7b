// A tokenizer.json as the metadata tokenizer.ggml.* of a GGUF file.
//
// Tested by tests/python/test_gguf_export.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "osp/formats/gguf_writer.h"

namespace osp {

// Adds the tokenizer to the metadata. Byte-level BPE whose words are cut in one of the ways that
// llama.cpp has a name for; anything else is Error(unsupported) with the component that has no
// equivalent, because llama.cpp would cut text otherwise without saying so. Ids from the
// tokenizer's own vocabulary up to `vocabulary` are filled with unused tokens. `end_token` is the
// id that ends a text, -1 for none. `where` begins the messages.
void add_gguf_tokenizer(std::string_view tokenizer_json, int64_t vocabulary, int64_t end_token,
                        const std::string& where, GgufMetadataWriter& metadata);

}  // namespace osp
