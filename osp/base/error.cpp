#include "osp/base/error.h"

namespace osp {

int exit_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::usage:
      return 2;
    case ErrorCode::damaged:
    case ErrorCode::unsupported:
      return 3;
    case ErrorCode::diverged:
      return 4;
    case ErrorCode::io:
    case ErrorCode::memory:
      return 5;
    case ErrorCode::interrupted:
      return 75;
  }
  return 1;
}

void check_failed(const char* condition, const char* file, int line, const std::string& message) {
  throw std::logic_error(
      fmt::format("internal error at {}:{}: {} does not hold: {}", file, line, condition, message));
}

}  // namespace osp
