// Escaping of text from runs for HTML and for JSON inside a script element, and tables. Every
// string that comes from a file passes through here.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// The text with & < > " ' as character references and control characters other than tab and newline
// as U+FFFD: safe as element content and inside quoted attributes.
std::string escape_html(std::string_view text);

// The value as JSON in which <, >, & and the line separators U+2028/2029 are \u escapes, so that no
// string can end the script element around it or open a comment.
std::string json_for_script(const Json& value);

// The first `max_bytes` of UTF-8 text at most, cut before a character and marked with "…" if cut.
std::string shorten(std::string_view text, size_t max_bytes);

// A table of plain text, escaped by render_table. The first column of a row is its heading.
struct HtmlTable {
  std::vector<std::string> header = {};
  std::vector<std::vector<std::string>> rows = {};
};

// The table as HTML in a box that scrolls sideways; `caption` names it for screen readers.
std::string render_table(const HtmlTable& table, const std::string& caption);

}  // namespace osp
