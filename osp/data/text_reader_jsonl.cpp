#include "osp/data/text_reader_jsonl.h"

#include <algorithm>

#include "osp/base/error.h"

namespace osp {

void LineSplitter::feed(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      append(bytes);
      return;
    }
    if (rest_.empty() && !too_long_ && end <= max_line_bytes_) {
      emit(bytes.substr(0, end));
    } else {
      append(bytes.substr(0, end));
      emit_rest();
    }
    bytes.remove_prefix(end + 1);
  }
}

void LineSplitter::append(std::string_view bytes) {
  if (too_long_) return;
  if (bytes.size() > max_line_bytes_ - rest_.size()) {
    if (on_too_long_) {
      too_long_ = true;
      rest_.clear();
      return;
    }
    fail(ErrorCode::unsupported,
         "{}: line {} has more than {} bytes: cut it into several documents", where_, number_ + 1,
         max_line_bytes_);
  }
  rest_ += bytes;
}

void LineSplitter::finish() {
  if (!rest_.empty() || too_long_) emit_rest();
}

void LineSplitter::emit_rest() {
  if (too_long_) {
    on_too_long_(++number_);
    too_long_ = false;
    return;
  }
  emit(rest_);
  rest_.clear();
}

void LineSplitter::emit(std::string_view line) {
  ++number_;
  if (line.ends_with('\r')) line.remove_suffix(1);
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  if (!std::all_of(line.begin(), line.end(), blank)) sink_(line, number_);
}

}  // namespace osp
