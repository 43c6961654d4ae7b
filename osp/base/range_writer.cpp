// On pwrite(2). A failed fsync is reported and never retried: see osp/base/file.cpp.
#include "osp/base/range_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "osp/base/error.h"

namespace osp {
namespace {

[[noreturn]] void fail_range(const std::string& path, const char* action, int error) {
  fail(ErrorCode::io, "{}: cannot {}: {}", path, action, std::generic_category().message(error));
}

}  // namespace

RangeWriter::RangeWriter(const std::string& path) : path_(path) {
  do {
    descriptor_ = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
  } while (descriptor_ < 0 && errno == EINTR);
  if (descriptor_ < 0) fail_range(path_, "open for writing", errno);
}

RangeWriter::~RangeWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RangeWriter::write(uint64_t offset, const void* data, size_t num_bytes) {
  OSP_CHECK(descriptor_ >= 0, "{} is closed", path_);
  const char* next = static_cast<const char*>(data);
  while (num_bytes > 0) {
    const ssize_t written = ::pwrite(descriptor_, next, num_bytes, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) fail_range(path_, "write", written < 0 ? errno : EIO);
    next += written;
    offset += static_cast<uint64_t>(written);
    num_bytes -= static_cast<size_t>(written);
  }
}

void RangeWriter::close() {
  OSP_CHECK(descriptor_ >= 0, "{} is closed", path_);
  const int descriptor = std::exchange(descriptor_, -1);
  int result = 0;
  do {
    result = ::fsync(descriptor);
  } while (result != 0 && errno == EINTR);
  if (result != 0) {
    const int error = errno;
    ::close(descriptor);
    fail_range(path_, "fsync", error);
  }
  // Linux closes the descriptor even when close is interrupted, so it must not be repeated.
  if (::close(descriptor) != 0 && errno != EINTR) fail_range(path_, "close", errno);
}

}  // namespace osp
