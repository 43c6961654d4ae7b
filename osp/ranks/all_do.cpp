#include "osp/ranks/all_do.h"

#include <exception>
#include <string>

#include "osp/base/error.h"

namespace osp {

std::vector<Json> all_do(const Ranks& ranks, const std::function<Json()>& part) {
  Json own;
  try {
    own["value"] = part();
  } catch (const std::exception& error) {
    own = {{"error", error.what()}};
  }
  std::vector<Json> values;
  // A path may have bytes that are no UTF-8.
  const auto replace = Json::error_handler_t::replace;
  for (const std::string& text : ranks.texts_of_all(own.dump(-1, ' ', false, replace))) {
    const Json said = Json::parse(text);
    if (said.contains("error")) {
      const auto reason = said["error"].get<std::string>();
      if (ranks.alone()) fail(ErrorCode::io, "{}", reason);
      fail(ErrorCode::io, "rank {} of {}: {}", values.size(), ranks.size(), reason);
    }
    values.push_back(said["value"]);
  }
  return values;
}

}  // namespace osp
