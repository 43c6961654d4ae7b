// JSON lines: one JSON object a line, the text in one of its fields.
//
// Tested by osp/data/text_reader_test.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace osp {

// Cuts a stream into lines without their line break ("\n" or "\r\n"), numbered from 1; lines of
// nothing but white space are counted and left out.
class LineSplitter {
 public:
  using Sink = std::function<void(std::string_view line, uint64_t number)>;
  // A line of more than `max_line_bytes` is an Error(unsupported) that names `where` and the line:
  // packed data can be a thousand times its file.
  LineSplitter(Sink sink, std::string where, size_t max_line_bytes = size_t{1} << 30)
      : sink_(std::move(sink)), where_(std::move(where)), max_line_bytes_(max_line_bytes) {}
  void feed(std::string_view bytes);
  void finish();

 private:
  void append(std::string_view bytes);
  void emit(std::string_view line);

  Sink sink_;
  std::string where_;
  size_t max_line_bytes_;
  std::string rest_;
  uint64_t number_ = 0;
};

// The text of a line; nothing if the field is null. What the other fields hold (numbers out of
// range, lone surrogates, a key twice, deep nesting) stops nothing. Error(damaged) naming `where` and the line if
// it is no JSON object or the field is absent or no string.
std::optional<std::string> json_line_text(std::string_view line, const std::string& field,
                                          const std::string& where, uint64_t number);

}  // namespace osp
