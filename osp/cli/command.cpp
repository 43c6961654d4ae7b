#include "osp/cli/command.h"

namespace osp {

void print_json(const Json& object) {
  // Paths may hold bytes that are not UTF-8.
  write_stdout(object.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n");
  flush_stdout();
}

}  // namespace osp
