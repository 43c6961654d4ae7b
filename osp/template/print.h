// Values as text: Python's str and repr, and json.dumps.
//
// Tested by tests/python/test_chat_template.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "osp/template/context.h"
#include "osp/template/value.h"

namespace osp::jinja {

// str(value); empty for what is undefined.
std::string to_text(Context& context, const Value& value);
// repr of a float: the shortest digits that give the number back, as Python lays them out.
std::string real_text(double value);

// json.dumps(value, ensure_ascii=…, indent=…, separators=…, sort_keys=…)
struct JsonStyle {
  bool ascii = false;
  std::optional<std::string> indent;  // one level of it
  std::optional<std::string> item_separator;
  std::optional<std::string> key_separator;
  bool sort_keys = false;
};
std::string to_json(Context& context, const Value& value, const JsonStyle& style);

}  // namespace osp::jinja
