#include "osp/train/metrics_log.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <system_error>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"

namespace osp {
namespace {

std::string reason() { return std::generic_category().message(errno); }

// True if a line is an object about a step up to `step`.
bool is_line_until(std::string_view line, int64_t step) {
  const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return false;
  const auto found = object.find("step");
  return found == object.end() || (is_int64(*found) && found->get<int64_t>() <= step);
}

}  // namespace

uint64_t usable_metrics(const std::string& path, uint64_t expected_bytes, int64_t step,
                        std::string& warning) {
  const std::string text = path_exists(path) ? read_file(path) : "";
  const bool whole =
      expected_bytes <= text.size() && (expected_bytes == 0 || text[expected_bytes - 1] == '\n');
  if (whole) return expected_bytes;
  uint64_t kept = 0;
  for (size_t end = 0; (end = text.find('\n', kept)) != std::string::npos; kept = end + 1) {
    if (!is_line_until(std::string_view(text).substr(kept, end - kept), step)) break;
  }
  warning = fmt::format(
      "{}: was cut or changed after the checkpoint at step {}, where it had {} bytes; the run goes "
      "on with the {} bytes of whole lines that are left",
      path, step, expected_bytes, kept);
  return kept;
}

MetricsLog::MetricsLog(const std::string& path, uint64_t keep_bytes) : path_(path) {
  descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail(ErrorCode::io, "{}: cannot open: {}", path, reason());
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) {
    fail(ErrorCode::io, "{}: cannot read its size: {}", path, reason());
  }
  if (uint64_t(status.st_size) < keep_bytes) {
    fail(ErrorCode::damaged, "{}: has {} bytes, but the checkpoint was taken at {}", path,
         status.st_size, keep_bytes);
  }
  char last = '\n';
  if (keep_bytes > 0 && ::pread(descriptor_, &last, 1, off_t(keep_bytes) - 1) != 1) {
    fail(ErrorCode::io, "{}: cannot read: {}", path, reason());
  }
  if (last != '\n') {
    fail(ErrorCode::damaged, "{}: byte {} should end a line; the file was changed", path,
         keep_bytes);
  }
  if (::ftruncate(descriptor_, off_t(keep_bytes)) != 0) {
    fail(ErrorCode::io, "{}: cannot cut to {} bytes: {}", path, keep_bytes, reason());
  }
  written_ = keep_bytes;
}

MetricsLog::~MetricsLog() {
  try_write();
  ::close(descriptor_);
}

void MetricsLog::add(const Json& object) {
  pending_ += object.dump(-1, ' ', false, Json::error_handler_t::replace);
  pending_ += '\n';
  try_write();
}

void MetricsLog::sync() {
  if (!try_write()) fail(ErrorCode::io, "{}", take_failure());
  if (::fsync(descriptor_) != 0) fail(ErrorCode::io, "{}: cannot fsync: {}", path_, reason());
}

std::string MetricsLog::take_failure() { return std::exchange(failure_, {}); }

bool MetricsLog::try_write() {
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t count = ::pwrite(descriptor_, pending_.data() + done, pending_.size() - done,
                                   off_t(written_ + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      failure_ = fmt::format("{}: cannot write: {}", path_, reason());
      // No half line stays; should the cut fail as well, the next attempt overwrites it.
      if (::ftruncate(descriptor_, off_t(written_)) != 0) failure_ += "; nor cut it back";
      return false;
    }
    done += size_t(count);
  }
  written_ += pending_.size();
  pending_.clear();
  return true;
}

}  // namespace osp
