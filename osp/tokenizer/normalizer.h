// Normalizers of a tokenizer.json: rewriting text before it is cut into words.
// NFC, NFD, NFKC, NFKD (utf8proc), Prepend, Replace, Lowercase, Strip, Sequence.
#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "osp/tokenizer/growth.h"
#include "osp/tokenizer/json.h"

namespace osp::tokenizer {

class Normalizer {
 public:
  Normalizer() = default;  // changes nothing
  // Error(unsupported) naming an unknown type.
  explicit Normalizer(const Component& component);

  bool empty() const { return steps_.empty(); }
  // `text` is valid UTF-8, so is the result, which counts for `growth`. Error(unsupported) if it,
  // or a step on the way to it, is too long. O(n log n) for each step.
  //
  // *start: bytes at the start of `text` that come from the first character of the whole text; then
  // those of the result (Metaspace's prepend_scheme "first" asks where a word comes from).
  std::string apply(std::string text, Growth& growth, size_t* start) const;
  std::string apply(std::string text, Growth& growth) const {
    size_t start = 0;
    return apply(std::move(text), growth, &start);
  }

 private:
  struct Step {
    std::string where;
    std::function<std::string(std::string, const Growth&, size_t* start)> run;
  };
  void add(const Component& component);
  std::vector<Step> steps_;
};

}  // namespace osp::tokenizer
