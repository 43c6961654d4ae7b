// The text in one line of JSON lines: one JSON object a line, the text in one of its fields.
//
// The other fields are not judged (numbers out of range, lone surrogates, a key twice, deep
// nesting). A line whose text itself cannot be read is bad, for one of the reasons below, and a
// policy says what happens then.
//
// Tested by osp/data/json_line_test.cpp.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// The policy for a bad line: end with its error, leave it out, or repair what can be repaired and
// leave out the rest.
enum class OnBadLine { stop, skip, repair };

OnBadLine parse_on_bad_line(const std::string& name);  // Error(usage) for another name
const char* name_of(OnBadLine policy);

// Bad lines by reason:
//   not_an_object      no JSON object (cut off, other text, another kind of value)
//   no_field           the field is absent
//   not_a_string       the field is neither a string nor null
//   too_long           more bytes than a line may have
//   field_twice        repaired: the last one, as most readers of JSON take it
//   byte_order_mark    before the object; repaired: removed
//   lone_surrogate     half of a pair, such as \ud83d; repaired: U+FFFD
//   not_utf8           ill-formed bytes; repaired: U+FFFD, as in plain text
//   control_character  a raw one inside the string; repaired: kept
//   bad_escape         a backslash with what JSON does not know; repaired: kept
using LineCounts = std::map<std::string, uint64_t>;

struct BadLines {
  LineCounts skipped, repaired;

  void add(const BadLines& other);
};

struct JsonLineOptions {
  std::string field = "text";
  OnBadLine on_bad_line = OnBadLine::stop;
};

// The text of a line; nothing if the field is null or the line is left out. Counts bad lines in
// `bad`. Error(damaged) naming `where` and the line for a bad one with OnBadLine::stop.
std::optional<std::string> json_line_text(std::string_view line, const JsonLineOptions& options,
                                          const std::string& where, uint64_t number, BadLines& bad);
std::optional<std::string> json_line_text(std::string_view line, const std::string& field,
                                          const std::string& where, uint64_t number);

// A line as JSON, without what other fields than the named ones hold against the rules.
// Error(damaged) beginning with `place`.
Json json_line_fields(std::string_view line, const std::vector<std::string>& fields,
                      const std::string& place);

}  // namespace osp
