// Patterns of a tokenizer.json: a literal string or a regular expression, found by PCRE2 with JIT.
//
// The files are written for Oniguruma. Where the same spelling means something else in PCRE2 it is
// translated (\s, \w, \h, scripts in \p{…}), and what has no exact counterpart is refused.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "osp/tokenizer/growth.h"
#include "osp/tokenizer/json.h"

namespace osp::tokenizer {

class Regex {
 public:
  // Error(unsupported) if the pattern is not valid or cannot be translated.
  Regex(const std::string& pattern, const std::string& where);

  // Calls match(begin, end) for each match from left to right; matches do not overlap, and no empty
  // match comes directly after another match. `text` is valid UTF-8. Error(unsupported) if the
  // pattern needs more steps or memory than allowed.
  using Match = std::function<void(size_t, size_t)>;
  void for_each_match(std::string_view text, const Match& match) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
  std::string where_;
};

// {"String": "…"} or {"Regex": "…"} under the key "pattern" of a component.
class Pattern {
 public:
  explicit Pattern(const Component& component);
  void for_each_match(std::string_view text, const Regex::Match& match) const;
  // `text` with every match replaced by `content` as it stands. Bytes that are no UTF-8 are first
  // replaced as in texts if the pattern is a regular expression. Error(unsupported) if the result
  // is longer than `growth` allows.
  // *start counts the bytes at the start of `text` that come from the start of the original text,
  // and then those of the result: what replaces a match comes from the match's last character.
  std::string replace(std::string_view text, std::string_view content, const Growth& growth,
                      size_t* start) const;
  std::string replace(std::string_view text, std::string_view content, const Growth& growth) const {
    size_t start = 0;
    return replace(text, content, growth, &start);
  }

 private:
  std::string where_;
  std::string literal_;  // empty: the regular expression
  std::shared_ptr<const Regex> regex_;
};

// The pattern in PCRE2's syntax; for tests.
std::string translate_pattern(std::string_view pattern, const std::string& where);

}  // namespace osp::tokenizer
