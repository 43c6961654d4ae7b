#include "osp/cli/command.h"

#include <cstdio>

namespace osp {

void add_common_options(CLI::App& command, CommonOptions& options) {
  command.add_flag("--quiet", options.quiet, "no progress on stderr");
  command.add_flag("--json", options.json, "print the result as one JSON object");
}

void print_json(const Json& object) { fmt::print("{}\n", object.dump()); }

}  // namespace osp
