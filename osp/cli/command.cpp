#include "osp/cli/command.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "osp/base/error.h"

namespace osp {

void print_json(const Json& object) {
  const std::string line = object.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), stdout) != line.size() || std::fflush(stdout) != 0) {
    fail(ErrorCode::io, "stdout: cannot write the result ({})", std::strerror(errno));
  }
}

}  // namespace osp
