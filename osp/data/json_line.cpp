#include "osp/data/json_line.h"

#include <algorithm>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/base/printable.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// The end of the JSON string that begins at `at`, npos if it has none.
size_t end_of_string(std::string_view line, size_t at) {
  for (size_t i = at + 1; i < line.size(); ++i) {
    if (line[i] == '\\') {
      ++i;
    } else if (line[i] == '"') {
      return i + 1;
    }
  }
  return std::string_view::npos;
}

// The end of the value that begins at `at`, by brackets and quotes alone.
size_t end_of_value(std::string_view line, size_t at) {
  size_t depth = 0;
  for (size_t i = at; i < line.size();) {
    const char c = line[i];
    if (c == '"') {
      i = end_of_string(line, i);
      if (i == std::string_view::npos) return i;
    } else if (c == '{' || c == '[') {
      ++depth, ++i;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return i;
      --depth, ++i;
    } else if (c == ',' && depth == 0) {
      return i;
    } else {
      ++i;
    }
  }
  return std::string_view::npos;
}

// The four hexadecimal digits at `at`, or -1.
int hex4(std::string_view text, size_t at) {
  if (at + 4 > text.size()) return -1;
  int value = 0;
  for (const char c : text.substr(at, 4)) {
    const char lower = static_cast<char>(c | 0x20);
    const bool digit = c >= '0' && c <= '9';
    if (!digit && (lower < 'a' || lower > 'f')) return -1;
    value = value * 16 + (digit ? c - '0' : lower - 'a' + 10);
  }
  return value;
}

// The words of messages for a string or line that can be read all the same.
std::string in_words(std::string_view problem) {
  constexpr std::pair<std::string_view, std::string_view> kWords[] = {
      {"field_twice", "is there more than once"},
      {"lone_surrogate", "has half of a surrogate pair"},
      {"not_utf8", "is not UTF-8"},
      {"control_character", "has a control character that is not escaped"},
      {"bad_escape", "has a backslash with what JSON does not know"}};
  for (const auto& [name, words] : kWords) {
    if (name == problem) return std::string(words);
  }
  return std::string(problem);
}

// A string as it can best be read, and the first thing that JSON does not allow in it.
struct ReadString {
  std::string text;
  const char* problem = nullptr;

  void blame(const char* reason) {
    if (problem == nullptr) problem = reason;
  }
};

// Reads the escape at `at`; returns the place behind it.
size_t read_escape(std::string_view body, size_t at, ReadString& out) {
  constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
  const char c = body[at + 1];
  if (const size_t known = kNames.find(c); known != kNames.npos) {
    out.text += kMeanings[known];
    return at + 2;
  }
  const int code = c == 'u' ? hex4(body, at + 2) : -1;
  if (code < 0) {
    out.blame("bad_escape");
    out.text += '\\';  // what follows stands for itself
    return at + 1;
  }
  const bool high = code >= 0xD800 && code < 0xDC00, low = code >= 0xDC00 && code < 0xE000;
  if (!high && !low) {
    tokenizer::append_utf8(out.text, static_cast<char32_t>(code));
    return at + 6;
  }
  const int second = high && body.substr(at + 6).starts_with("\\u") ? hex4(body, at + 8) : -1;
  if (second < 0xDC00 || second >= 0xE000) {
    out.blame("lone_surrogate");
    out.text += kReplacement;
    return at + 6;
  }
  tokenizer::append_utf8(
      out.text, static_cast<char32_t>(0x10000 + ((code - 0xD800) << 10) + (second - 0xDC00)));
  return at + 12;
}

// The string between the quotes of `value`.
ReadString read_string(std::string_view value) {
  const std::string_view body = value.substr(1, value.size() - 2);
  ReadString out;
  for (size_t at = 0; at < body.size();) {
    if (body[at] == '\\') {
      at = read_escape(body, at, out);
      continue;
    }
    if (static_cast<unsigned char>(body[at]) < 0x20) out.blame("control_character");
    out.text += body[at++];
  }
  if (tokenizer::valid_utf8_prefix(out.text) != out.text.size()) {
    out.blame("not_utf8");
    out.text = tokenizer::replace_invalid_utf8(out.text);
  }
  return out;
}

// The members of an object in the order of the line, by brackets and quotes alone; nothing if the
// line is no object.
using Members = std::vector<std::pair<std::string, std::string_view>>;
std::optional<Members> members_of(std::string_view line) {
  const auto skip_space = [&](size_t at) {
    while (at < line.size() && (line[at] == ' ' || line[at] == '\t' || line[at] == '\r')) ++at;
    return at;
  };
  const auto is = [&](size_t at, char c) { return at < line.size() && line[at] == c; };
  Members members;
  size_t at = skip_space(0);
  if (!is(at, '{')) return std::nullopt;
  if (const size_t end = skip_space(at + 1); is(end, '}')) {
    return skip_space(end + 1) == line.size() ? std::optional(members) : std::nullopt;
  }
  do {
    const size_t key = skip_space(at + 1);
    if (!is(key, '"')) return std::nullopt;
    const size_t key_end = end_of_string(line, key);
    const size_t colon = key_end == std::string_view::npos ? line.size() : skip_space(key_end);
    if (!is(colon, ':')) return std::nullopt;
    const size_t value = skip_space(colon + 1);
    at = end_of_value(line, value);
    if (at == std::string_view::npos || at == value) return std::nullopt;
    size_t value_end = at;
    while (line[value_end - 1] == ' ' || line[value_end - 1] == '\t') --value_end;
    members.emplace_back(read_string(line.substr(key, key_end - key)).text,
                         line.substr(value, value_end - value));
  } while (is(at, ','));
  if (!is(at, '}') || skip_space(at + 1) != line.size()) return std::nullopt;
  return members;
}

// The result of a line: a text or null, what is wrong with it, and whether it can be read
// all the same.
struct ReadLine {
  std::optional<std::string> text;
  const char* problem = nullptr;
  bool repaired = false;
  std::string message;  // of the problem
};

ReadLine bad_line(const char* problem, std::string message) {
  return {.text = {}, .problem = problem, .repaired = false, .message = std::move(message)};
}

ReadLine no_field(const std::string& field, const std::vector<std::string>& keys) {
  std::string names;
  for (const std::string& key : keys) names += (names.empty() ? "" : ", ") + key;
  return bad_line("no_field", fmt::format("no field \"{}\"; it has: {} (choose one with --field)",
                                          field, printable(names, 200)));
}

ReadLine not_a_string(const std::string& field, const std::string& found) {
  return bad_line("not_a_string",
                  fmt::format("field \"{}\" is {}; expected a string or null", field, found));
}

ReadLine read_strict(const Json& object, const std::string& field) {
  if (!object.is_object()) {
    return bad_line(
        "not_an_object",
        fmt::format("a JSON {}; every line must be an object with the text in field \"{}\"",
                    object.type_name(), field));
  }
  const auto found = object.find(field);
  if (found == object.end()) {
    std::vector<std::string> keys;
    for (const auto& [key, unused] : object.items()) keys.push_back(key);
    return no_field(field, keys);
  }
  if (found->is_null()) return {};
  if (!found->is_string()) return not_a_string(field, fmt::format("a JSON {}", found->type_name()));
  return {.text = found->get<std::string>(), .problem = nullptr, .repaired = false, .message = {}};
}

// A line that is no strict JSON: the value of the field alone is read, as well as it can be.
ReadLine read_lenient(std::string_view line, const std::string& field, const std::string& reason) {
  const std::optional<Members> members = members_of(line);
  if (!members) return bad_line("not_an_object", reason);
  std::string_view value;
  size_t count = 0;
  std::vector<std::string> keys;
  for (const auto& [key, of_key] : *members) {
    keys.push_back(key);
    if (key != field) continue;
    value = of_key;
    ++count;
  }
  if (count == 0) return no_field(field, keys);
  ReadLine result;
  const char* problem = count > 1 ? "field_twice" : nullptr;
  if (value.size() > 1 && value.front() == '"' && end_of_string(value, 0) == value.size()) {
    ReadString read = read_string(value);
    result.text = std::move(read.text);
    if (problem == nullptr) problem = read.problem;
  } else if (value != "null") {
    return not_a_string(field, fmt::format("\"{}\"", printable(value, 40)));
  }
  if (problem == nullptr) return result;
  result.problem = problem;
  result.repaired = true;
  result.message = fmt::format("field \"{}\" {}", field, in_words(problem));
  return result;
}

ReadLine read_json_line(std::string_view line, const std::string& field) {
  if (line.starts_with(kByteOrderMark)) {
    ReadLine rest = read_json_line(line.substr(kByteOrderMark.size()), field);
    if (rest.problem != nullptr) return rest;
    rest.problem = "byte_order_mark";
    rest.repaired = true;
    rest.message = "begins with a byte order mark; JSON must not have one";
    return rest;
  }
  Json object;
  try {
    object = parse_json(line, "");
  } catch (const Error& error) {
    std::string_view reason = error.what();
    if (reason.starts_with(": ")) reason.remove_prefix(2);
    return read_lenient(line, field, std::string(reason));
  }
  return read_strict(object, field);
}

}  // namespace

OnBadLine parse_on_bad_line(const std::string& name) {
  for (const OnBadLine policy : {OnBadLine::stop, OnBadLine::skip, OnBadLine::repair}) {
    if (name == name_of(policy)) return policy;
  }
  fail(ErrorCode::usage, "--on-bad-line {}: expected stop, skip or repair", name);
}

const char* name_of(OnBadLine policy) {
  return policy == OnBadLine::stop ? "stop" : policy == OnBadLine::skip ? "skip" : "repair";
}

void BadLines::add(const BadLines& other) {
  for (const auto& [reason, count] : other.skipped) skipped[reason] += count;
  for (const auto& [reason, count] : other.repaired) repaired[reason] += count;
}

std::optional<std::string> json_line_text(std::string_view line, const JsonLineOptions& options,
                                          const std::string& where, uint64_t number,
                                          BadLines& bad) {
  ReadLine read = read_json_line(line, options.field);
  if (read.problem == nullptr) return std::move(read.text);
  if (options.on_bad_line == OnBadLine::stop) {
    fail(ErrorCode::damaged, "{}: line {}: {}", where, number, read.message);
  }
  if (options.on_bad_line == OnBadLine::repair && read.repaired) {
    ++bad.repaired[read.problem];
    return std::move(read.text);
  }
  ++bad.skipped[read.problem];
  return std::nullopt;
}

std::optional<std::string> json_line_text(std::string_view line, const std::string& field,
                                          const std::string& where, uint64_t number) {
  BadLines none;
  return json_line_text(line, {.field = field}, where, number, none);
}

Json json_line_fields(std::string_view line, const std::vector<std::string>& fields,
                      const std::string& place) {
  try {
    return parse_json(line, place);
  } catch (const Error&) {
    const std::optional<Members> members = members_of(line);
    if (!members) throw;
    Json object = Json::object();
    for (const auto& [key, value] : *members) {
      const bool read = std::ranges::find(fields, key) != fields.end();
      if (object.contains(key)) {
        if (read) throw;
        continue;
      }
      try {
        object[key] = parse_json(value, fmt::format("{}: field \"{}\"", place, printable(key)));
      } catch (const Error&) {
        if (read) throw;
      }
    }
    return object;
  }
}

}  // namespace osp
