#include "osp/data/document_split.h"

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/base/sha256.h"

namespace osp {
namespace {

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

std::string unescape(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\') {
      out += text[i];
      continue;
    }
    const char kind = i + 1 < text.size() ? text[i + 1] : '\0';
    const int high = i + 2 < text.size() ? hex_digit(text[i + 2]) : -1;
    const int low = i + 3 < text.size() ? hex_digit(text[i + 3]) : -1;
    if (kind == 'n' || kind == 'r' || kind == 't' || kind == '\\') {
      out += kind == 'n' ? '\n' : kind == 'r' ? '\r' : kind == 't' ? '\t' : '\\';
      i += 1;
    } else if (kind == 'x' && high >= 0 && low >= 0) {
      out += static_cast<char>(16 * high + low);
      i += 3;
    } else {
      fail(ErrorCode::usage,
           "--document-separator {}: unknown escape at character {}; known are "
           "\\n \\r \\t \\\\ \\xHH",
           text, i + 1);
    }
  }
  return out;
}

// Removes the line break at the end.
std::string_view without_line_break(std::string_view text) {
  if (text.ends_with('\n')) text.remove_suffix(1);
  if (text.ends_with('\r')) text.remove_suffix(1);
  return text;
}

}  // namespace

bool is_blank(std::string_view text) { return std::all_of(text.begin(), text.end(), is_space); }

DocumentPolicy parse_document_policy(const std::string& name, const std::string& separator) {
  if (!separator.empty()) {
    return {.unit = DocumentUnit::separator, .separator = unescape(separator)};
  }
  if (name == "file") return {.unit = DocumentUnit::file};
  if (name == "lines") return {.unit = DocumentUnit::line};
  if (name == "paragraphs") return {.unit = DocumentUnit::paragraph};
  if (name == "entries") return {.unit = DocumentUnit::entry};
  fail(ErrorCode::usage, "--documents {}: expected file, lines, paragraphs or entries", name);
}

std::string describe(const DocumentPolicy& policy) {
  switch (policy.unit) {
    case DocumentUnit::file:
      return "file";
    case DocumentUnit::line:
      return "lines";
    case DocumentUnit::paragraph:
      return "paragraphs";
    case DocumentUnit::entry:
      return "entries";
    case DocumentUnit::separator:
      break;
  }
  std::string hex;
  for (const unsigned char c : policy.separator) hex += fmt::format("\\x{:02x}", c);
  return "separator " + hex;
}

DocumentSplitter::DocumentSplitter(const DocumentPolicy& policy, Sink sink, std::string where,
                                   size_t max_line_bytes)
    : policy_(policy),
      sink_(std::move(sink)),
      where_(std::move(where)),
      max_line_bytes_(max_line_bytes) {}

void DocumentSplitter::feed(std::string_view bytes) {
  if (policy_.unit == DocumentUnit::file) {
    document_ += bytes;
    return;
  }
  if (policy_.unit == DocumentUnit::separator) return feed_separated(bytes);
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      append_to_line(bytes);
      return;
    }
    const std::string_view line = bytes.substr(0, end + 1);
    if (line_.empty() && end <= max_line_bytes_) {
      feed_line(line);
    } else {
      append_to_line(line);
      feed_line(line_);
      line_.clear();
    }
    ++num_lines_;
    bytes.remove_prefix(end + 1);
  }
}

// The line break does not count.
void DocumentSplitter::append_to_line(std::string_view bytes) {
  line_ += bytes;
  if (line_.size() - (line_.ends_with('\n') ? 1 : 0) > max_line_bytes_) {
    fail(ErrorCode::unsupported, "{}: line {} has more than {} bytes: cut it into several lines",
         where_, num_lines_ + 1, max_line_bytes_);
  }
}

void DocumentSplitter::finish() {
  if (!line_.empty()) feed_line(line_);
  line_.clear();
  emit();
}

// `line` has its line break, but for the last of a file.
void DocumentSplitter::feed_line(std::string_view line) {
  if (policy_.unit == DocumentUnit::line) {
    if (!is_blank(line)) sink_(without_line_break(line));
    return;
  }
  if (is_blank(line)) {
    after_blank_ = true;
    if (!document_.empty()) held_ += line;
    return;
  }
  const bool may_begin = policy_.unit == DocumentUnit::paragraph || !is_space(line[0]);
  if (after_blank_ && may_begin) emit();
  after_blank_ = false;
  document_ += held_;
  document_ += line;
  held_.clear();
}

void DocumentSplitter::feed_separated(std::string_view bytes) {
  // A separator may begin in what is already there.
  size_t from = document_.size() - std::min(document_.size(), policy_.separator.size() - 1);
  document_ += bytes;
  size_t begin = 0;
  for (size_t at = document_.find(policy_.separator, from); at != std::string::npos;
       at = document_.find(policy_.separator, begin)) {
    sink_(std::string_view(document_).substr(begin, at - begin));
    begin = at + policy_.separator.size();
  }
  document_.erase(0, begin);
}

void DocumentSplitter::emit() {
  const bool by_lines =
      policy_.unit == DocumentUnit::paragraph || policy_.unit == DocumentUnit::entry;
  if (!document_.empty()) sink_(by_lines ? without_line_break(document_) : document_);
  document_.clear();
  held_.clear();
}

bool is_held_out(std::string_view document, double fraction) {
  if (fraction <= 0) return false;
  if (fraction >= 1) return true;
  uint64_t bits = 0;
  for (const char c : sha256_hex(document).substr(0, 16)) {
    bits = bits << 4 | static_cast<uint64_t>(hex_digit(c));
  }
  return static_cast<double>(bits) < std::ldexp(fraction, 64);
}

}  // namespace osp
