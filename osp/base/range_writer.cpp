#include "osp/base/range_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/posix_calls.h"

namespace osp {

RangeWriter::RangeWriter(const std::string& path) : path_(path) {
  descriptor_ = uninterrupted([&] { return ::open(path.c_str(), O_WRONLY | O_CLOEXEC); });
  if (descriptor_ < 0) fail_errno(path_, "open for writing", errno);
}

RangeWriter::~RangeWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void RangeWriter::write(uint64_t offset, const void* data, size_t num_bytes) {
  OSP_CHECK(descriptor_ >= 0, "{} is closed", path_);
  const char* next = static_cast<const char*>(data);
  while (num_bytes > 0) {
    const ssize_t written = uninterrupted(
        [&] { return ::pwrite(descriptor_, next, num_bytes, static_cast<off_t>(offset)); });
    if (written <= 0) fail_errno(path_, "write", written < 0 ? errno : EIO);
    next += written;
    offset += static_cast<uint64_t>(written);
    num_bytes -= static_cast<size_t>(written);
  }
}

void RangeWriter::close() {
  OSP_CHECK(descriptor_ >= 0, "{} is closed", path_);
  close_written(path_, std::exchange(descriptor_, -1), /*sync=*/true);
}

}  // namespace osp
