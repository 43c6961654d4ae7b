// What files make of POSIX calls: an interrupted one is repeated, a failed one is an Error(io) with
// path and reason. A failed fsync is never repeated: the kernel may have dropped the dirty pages,
// so only writing everything afresh can succeed.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include "osp/base/error.h"

namespace osp {

[[noreturn]] inline void fail_errno(const std::string& path, const char* action, int error) {
  fail(ErrorCode::io, "{}: cannot {}: {}", path, action, std::generic_category().message(error));
}

// Repeats a call that returned -1 with EINTR.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// Closes a descriptor that was written to, whatever happens, after fsync if `sync`.
inline void close_written(const std::string& path, int descriptor, bool sync) {
  if (sync && uninterrupted([&] { return ::fsync(descriptor); }) != 0) {
    const int error = errno;
    ::close(descriptor);
    fail_errno(path, "fsync", error);
  }
  // Linux closes the descriptor even when close is interrupted, so it must not be repeated.
  if (::close(descriptor) != 0 && errno != EINTR) fail_errno(path, "close", errno);
}

}  // namespace osp
