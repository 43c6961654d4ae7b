// Reading the parts of a tokenizer.json: typed access to keys, with errors that name file,
// component and key. Vocabularies have up to a quarter of a million keys, so objects are sorted
// maps here (nlohmann::json), not the insertion-ordered lists of osp/base/json.h.
// Quotations from the file in messages are printable().
//
// Tested by osp/tokenizer/tokenizer_test.cpp.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/printable.h"

namespace osp::tokenizer {

using SortedJson = nlohmann::json;

// Strict JSON, as osp::parse_json reads it; an object. Error(damaged).
SortedJson parse_tokenizer_json(std::string_view text, const std::string& where);

// The largest token id: ids and sizes of vocabularies are int32.
inline constexpr int32_t kLargestId = INT32_MAX - 1;
// The token id that `value` is, or -1 if it is anything else.
int32_t as_token_id(const SortedJson& value);
// A value for a message: what it is, or its kind.
std::string shown(const SortedJson& value);

// A component of the file ("normalizer", "decoders[2]", …) and its path for messages.
struct Component {
  const SortedJson& json;
  std::string where;  // "tokenizer.json: pre_tokenizer"

  // The value of "type". Error(damaged) if this is no object with a type.
  std::string type() const;
  // Members; the second form takes what is absent or null as `fallback`.
  bool flag(const std::string& key, bool fallback) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& fallback) const;
  int64_t integer(const std::string& key, int64_t low, int64_t high) const;
  // An array under `key`, element by element.
  std::vector<Component> list(const std::string& key) const;
  Component child(const std::string& key) const;
  bool has(const std::string& key) const;  // present and not null

  // Error(unsupported) that names this component's type.
  [[noreturn]] void unsupported(std::string_view kind, std::string_view known) const;
};

}  // namespace osp::tokenizer
