// Reading the parts of a tokenizer.json: typed access to keys, with errors that name file,
// component and key. Vocabularies have up to a quarter of a million keys, so objects are sorted
// maps here (nlohmann::json), not the insertion-ordered lists of osp/base/json.h.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "osp/base/error.h"

namespace osp::tokenizer {

using SortedJson = nlohmann::json;

// Strict JSON of a bounded depth. Error(damaged).
SortedJson parse_tokenizer_json(std::string_view text, const std::string& where);

// The largest token id: ids and sizes of vocabularies are int32.
inline constexpr int32_t kLargestId = INT32_MAX - 1;
// The token id that `value` is, or -1 if it is anything else.
int32_t as_token_id(const SortedJson& value);

// A component of the file ("normalizer", "decoders[2]", …) and its path for messages.
struct Component {
  const SortedJson& json;
  std::string where;  // "tokenizer.json: pre_tokenizer"

  // The value of "type". Error(damaged) if this is no object with a type.
  std::string type() const;
  // Members; the second form takes what is absent or null as `fallback`.
  bool flag(const char* key, bool fallback) const;
  std::string text(const char* key) const;
  std::string text(const char* key, const std::string& fallback) const;
  int64_t integer(const char* key, int64_t low, int64_t high) const;
  // An array under `key`, element by element.
  std::vector<Component> list(const char* key) const;
  Component child(const char* key) const;
  bool has(const char* key) const;  // present and not null

  // Error(unsupported) that names this component's type.
  [[noreturn]] void unsupported(std::string_view kind, std::string_view known) const;
};

}  // namespace osp::tokenizer
