#include "osp/cli/command.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/cli/option_text.h"

namespace osp {

bool CommonOptions::is_given(const std::string& field) const {
  return std::find(given.begin(), given.end(), field) != given.end();
}

void refuse_given(const CommonOptions& common, const std::vector<std::string>& fields,
                  const std::string& why) {
  std::vector<std::string> refused;
  for (const std::string& field : fields) {
    OSP_CHECK(std::find(common.known.begin(), common.known.end(), field) != common.known.end(),
              "this command has no option {}", field);
    if (common.is_given(field)) refused.push_back(option_name(field));
  }
  if (refused.empty()) return;
  fail(ErrorCode::usage, "{}: {}; leave {} out", fmt::join(refused, ", "), why,
       refused.size() == 1 ? "it" : "them");
}

void print_json(const Json& object) {
  // Paths may hold bytes that are not UTF-8.
  write_stdout(object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  flush_stdout();
}

}  // namespace osp
