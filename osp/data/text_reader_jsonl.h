// The lines of a stream of JSON lines; osp/data/json_line.h reads each.
//
// Tested by osp/data/text_reader_test.cpp.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "osp/data/json_line.h"

namespace osp {

// Cuts a stream into lines without their line break ("\n" or "\r\n"), numbered from 1; lines of
// nothing but white space are counted and left out.
class LineSplitter {
 public:
  using Sink = std::function<void(std::string_view line, uint64_t number)>;
  // A line of more than `max_line_bytes` is an Error(unsupported) that names `where` and the line:
  // packed data can be a thousand times its file. With `on_too_long` it is left out and
  // reported there.
  LineSplitter(Sink sink, std::string where, size_t max_line_bytes = size_t{1} << 30,
               std::function<void(uint64_t number)> on_too_long = {})
      : sink_(std::move(sink)),
        where_(std::move(where)),
        max_line_bytes_(max_line_bytes),
        on_too_long_(std::move(on_too_long)) {}
  void feed(std::string_view bytes);
  void finish();

 private:
  void append(std::string_view bytes);
  void emit(std::string_view line);
  void emit_rest();

  Sink sink_;
  std::string where_;
  size_t max_line_bytes_;
  std::function<void(uint64_t number)> on_too_long_;
  std::string rest_;
  bool too_long_ = false;  // the rest of this line is passed over
  uint64_t number_ = 0;
};

}  // namespace osp
