// Splitting, counting and replacing.
#include <algorithm>

#include "osp/template/text.h"
#include "osp/tokenizer/utf8.h"

namespace osp::jinja {
namespace {

bool may_split(int64_t max_splits, size_t done) {
  return max_splits < 0 || done < static_cast<size_t>(max_splits);
}

std::vector<std::string> split_at_space(std::string_view text, int64_t max_splits) {
  std::vector<std::string> parts;
  for (;;) {
    text.remove_prefix(leading_space(text));
    if (text.empty()) return parts;
    if (!may_split(max_splits, parts.size())) {
      text.remove_suffix(trailing_space(text));
      parts.emplace_back(text);
      return parts;
    }
    size_t end = 0;
    while (end < text.size() && leading_space(text.substr(end, character_size(text[end]))) == 0) {
      end += character_size(text[end]);
    }
    parts.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

std::vector<std::string> split_right_at_space(std::string_view text, int64_t max_splits) {
  std::vector<std::string> parts;
  for (;;) {
    text.remove_suffix(trailing_space(text));
    if (text.empty()) break;
    if (!may_split(max_splits, parts.size())) {
      text.remove_prefix(leading_space(text));
      parts.emplace_back(text);
      break;
    }
    size_t begin = text.size();
    while (begin > 0) {
      size_t before = begin - 1;
      while ((static_cast<unsigned char>(text[before]) & 0xC0) == 0x80) --before;
      if (leading_space(text.substr(before, begin - before)) != 0) break;
      begin = before;
    }
    parts.emplace_back(text.substr(begin));
    text.remove_suffix(text.size() - begin);
  }
  std::reverse(parts.begin(), parts.end());
  return parts;
}

// Bytes of the line end at the start of `text`: \n, \r, \r\n and those that Python adds.
size_t line_end_size(std::string_view text) {
  if (text.starts_with("\r\n")) return 2;
  const char* at = text.data();
  const char32_t code = tokenizer::next_character(at);
  const bool ends = (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) ||
                    code == 0x85 || code == 0x2028 || code == 0x2029;
  return ends ? static_cast<size_t>(at - text.data()) : 0;
}

}  // namespace

std::vector<std::string> split(std::string_view text, const std::optional<std::string>& separator,
                               int64_t max_splits) {
  if (!separator) return split_at_space(text, max_splits);
  std::vector<std::string> parts;
  while (may_split(max_splits, parts.size())) {
    const size_t found = text.find(*separator);
    if (found == text.npos) break;
    parts.emplace_back(text.substr(0, found));
    text.remove_prefix(found + separator->size());
  }
  parts.emplace_back(text);
  return parts;
}

std::vector<std::string> split_right(std::string_view text,
                                     const std::optional<std::string>& separator,
                                     int64_t max_splits) {
  if (!separator) return split_right_at_space(text, max_splits);
  std::vector<std::string> parts;
  while (may_split(max_splits, parts.size())) {
    const size_t found = text.rfind(*separator);
    if (found == text.npos) break;
    parts.emplace_back(text.substr(found + separator->size()));
    text = text.substr(0, found);
  }
  parts.emplace_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string> lines;
  size_t at = 0;
  while (at < text.size()) {
    const size_t end = line_end_size(text.substr(at));
    if (end == 0) {
      at += character_size(text[at]);
      continue;
    }
    lines.emplace_back(text.substr(0, keep_ends ? at + end : at));
    text.remove_prefix(at + end);
    at = 0;
  }
  if (!text.empty()) lines.emplace_back(text);
  return lines;
}

size_t count(std::string_view text, std::string_view part) {
  if (part.empty()) return num_characters(text) + 1;
  size_t found = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + part.size())) {
    ++found;
  }
  return found;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to,
                    int64_t most) {
  std::string out;
  size_t done = 0;
  size_t at = 0;
  if (from.empty()) {  // between all characters
    while (may_split(most, done)) {
      out += to;
      ++done;
      if (at == text.size()) return out;
      const size_t size = character_size(text[at]);
      out += text.substr(at, size);
      at += size;
    }
    out += text.substr(at);
    return out;
  }
  while (may_split(most, done)) {
    const size_t found = text.find(from, at);
    if (found == text.npos) break;
    out += text.substr(at, found - at);
    out += to;
    at = found + from.size();
    ++done;
  }
  out += text.substr(at);
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace osp::jinja
