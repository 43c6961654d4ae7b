// Post-processors of a tokenizer.json: special tokens around the ids of one text.
// TemplateProcessing (its "single" template), ByteLevel (about offsets only), Sequence.
//
// Tested by osp/tokenizer/tokenizer_test.cpp and tests/python/test_tokenizer.py.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/tokenizer/json.h"

namespace osp::tokenizer {

class PostProcessor {
 public:
  PostProcessor() = default;
  // Error(unsupported) naming an unknown type.
  explicit PostProcessor(const Component& component);

  // Rewrites ids[from..] as the templates say.
  void apply(std::vector<int32_t>& ids, size_t from) const;

 private:
  struct Part {
    bool text;                 // the ids of the text; otherwise
    std::vector<int32_t> ids;  // these special tokens
  };
  using Template = std::vector<Part>;
  void add(const Component& component);
  void add_template(const Component& component);
  std::vector<Template> templates_;
};

}  // namespace osp::tokenizer
