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

std::optional<std::string> json_line_text(std::string_view line, const std::string& field,
                                          const std::string& where, uint64_t number) {
  const std::string place = fmt::format("{}: line {}", where, number);
  const Json object = parse_json(line, place);
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
