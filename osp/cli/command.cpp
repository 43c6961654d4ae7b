#include "osp/cli/command.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "osp/base/error.h"

namespace osp {

void add_common_options(Command& command, CommonOptions& options) {
  command.add("--quiet", options.quiet, "no progress on stderr");
  command.add("--json", options.json, "print the result as one JSON object");
}

void add_model_option(Command& command, std::string& model) {
  command.add("model", model, "model dir, checkpoint or finished run").required();
}

void add_measure_options(Command& command, MeasureOptions& options, const std::string& use) {
  add_common_options(command, options.common);
  add_model_option(command, options.model);
  command
      .add("--data", options.data,
           "token shards (their held-out split) or a text file, " + use + " as one sequence")
      .required();
  command
      .add("--max-tokens", options.max_tokens,
           "use the whole windows of the first N tokens; 0: all")
      .between(int64_t{0}, int64_t{1} << 40);
}

void print_json(const Json& object) {
  const std::string line = object.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0) {
    fail(ErrorCode::io, "stdout: cannot write the result ({})", std::strerror(errno));
  }
}

}  // namespace osp
