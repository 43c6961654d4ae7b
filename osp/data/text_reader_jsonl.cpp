#include "osp/data/text_reader_jsonl.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/base/printable.h"

namespace osp {

void LineSplitter::feed(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      append(bytes);
      return;
    }
    if (rest_.empty() && end <= max_line_bytes_) {
      emit(bytes.substr(0, end));
    } else {
      append(bytes.substr(0, end));
      emit(rest_);
      rest_.clear();
    }
    bytes.remove_prefix(end + 1);
  }
}

void LineSplitter::append(std::string_view bytes) {
  if (bytes.size() > max_line_bytes_ - rest_.size()) {
    fail(ErrorCode::unsupported,
         "{}: line {} has more than {} bytes: cut it into several documents", where_, number_ + 1,
         max_line_bytes_);
  }
  rest_ += bytes;
}

void LineSplitter::finish() {
  if (!rest_.empty()) emit(rest_);
  rest_.clear();
}

void LineSplitter::emit(std::string_view line) {
  ++number_;
  if (line.ends_with('\r')) line.remove_suffix(1);
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  if (!std::all_of(line.begin(), line.end(), blank)) sink_(line, number_);
}

namespace {

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

// The value of `field` in a line that is no strict JSON, as it stands, if the line is an object but
// for what its other fields hold: nobody reads them, so nobody judges them. Nothing if the field is
// absent or there twice.
std::optional<std::string_view> only_field(std::string_view line, const std::string& field) {
  const auto skip_space = [&](size_t at) {
    while (at < line.size() && (line[at] == ' ' || line[at] == '\t' || line[at] == '\r')) ++at;
    return at;
  };
  const auto is = [&](size_t at, char c) { return at < line.size() && line[at] == c; };
  const std::string wanted = Json(field).dump();
  std::optional<std::string_view> found;
  size_t at = skip_space(0);
  if (!is(at, '{')) return std::nullopt;
  do {
    const size_t key = skip_space(at + 1);
    if (!is(key, '"')) return std::nullopt;
    const size_t key_end = end_of_string(line, key);
    const size_t colon = key_end == std::string_view::npos ? line.size() : skip_space(key_end);
    if (!is(colon, ':')) return std::nullopt;
    const size_t value = skip_space(colon + 1);
    at = end_of_value(line, value);
    if (at == std::string_view::npos || at == value) return std::nullopt;
    if (line.substr(key, key_end - key) != wanted) continue;
    if (found) return std::nullopt;
    found = line.substr(value, at - value);
  } while (is(at, ','));
  if (!is(at, '}') || skip_space(at + 1) != line.size()) return std::nullopt;
  return found;
}

// A line as JSON; where its other fields break a rule, the object with `field` alone.
Json read_line(std::string_view line, const std::string& field, const std::string& place) {
  try {
    return parse_json(line, place);
  } catch (const Error&) {
    const auto value = only_field(line, field);
    if (!value) throw;
    Json object = Json::object();
    object[field] = parse_json(*value, place);
    return object;
  }
}

}  // namespace

std::optional<std::string> json_line_text(std::string_view line, const std::string& field,
                                          const std::string& where, uint64_t number) {
  const std::string place = fmt::format("{}: line {}", where, number);
  const Json object = read_line(line, field, place);
  if (!object.is_object()) {
    fail(ErrorCode::damaged,
         "{}: a JSON {}; every line must be an object with the text in field "
         "\"{}\"",
         place, object.type_name(), field);
  }
  const auto found = object.find(field);
  if (found == object.end()) {
    std::string keys;
    for (const auto& [key, unused] : object.items()) keys += (keys.empty() ? "" : ", ") + key;
    fail(ErrorCode::damaged, "{}: no field \"{}\"; it has: {} (choose one with --field)", place,
         field, printable(keys, 200));
  }
  if (found->is_null()) return std::nullopt;
  if (!found->is_string()) {
    fail(ErrorCode::damaged, "{}: field \"{}\" is a JSON {}; expected a string or null", place,
         field, found->type_name());
  }
  return found->get<std::string>();
}

}  // namespace osp
