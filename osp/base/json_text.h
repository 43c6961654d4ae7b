// JSON text of values that may hold names of files. Names are bytes: what is not UTF-8 becomes
// U+FFFD, where the library's own dump() would throw away hours of work.
//
// Tested by json_test.cpp.
#pragma once

#include <string>

#include "osp/base/json.h"

namespace osp {

inline std::string json_text(const Json& value, int indent = -1) {
  return value.dump(indent, ' ', false, Json::error_handler_t::replace);
}

// A value as it is read back from its text.
inline Json as_written(const Json& value) { return Json::parse(json_text(value)); }

}  // namespace osp
