// Post-processors of a tokenizer.json: special tokens around the ids of one text.
// TemplateProcessing, ByteLevel (about offsets only), Sequence. The parts that a template gives (a
// special token, the text) are what the next one of a Sequence takes: one part by its "single"
// template, two by its "pair"; for more there is none.
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

  // Number of ids that the templates put before and after the text's.
  size_t num_before() const;
  size_t num_after() const;

  // Rewrites ids[from..] as the templates say.
  void apply(std::vector<int32_t>& ids, size_t from) const;

 private:
  // Special tokens, or the text.
  struct Part {
    bool text;
    std::vector<int32_t> ids;
  };
  void add(const Component& component);
  void add_template(const Component& component);
  // The parts that the processors so far make of a text.
  std::vector<Part> parts_ = {{true, {}}};
};

}  // namespace osp::tokenizer
