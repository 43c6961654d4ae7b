#include "osp/cli/command.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "osp/base/error.h"

namespace osp {
namespace {

struct ModelOption {
  std::string& model;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_model(visit, self.model);
  }
};

}  // namespace

void add_common_options(Command& command, CommonOptions& options) { command.add_options(options); }

void add_model_option(Command& command, std::string& model) {
  ModelOption option{model};
  command.add_options(option);
}

void print_json(const Json& object) {
  const std::string line = object.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0) {
    fail(ErrorCode::io, "stdout: cannot write the result ({})", std::strerror(errno));
  }
}

}  // namespace osp
