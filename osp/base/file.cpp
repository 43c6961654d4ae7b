// File operations on POSIX calls, each of which is checked (posix_calls.h).
#include "osp/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/output.h"
#include "osp/base/posix_calls.h"

namespace osp {
namespace {

constexpr size_t kReadPieceBytes = size_t{1} << 20;
constexpr size_t kLargestWrite = size_t{1} << 26;  // between two looks at signals

// A descriptor that closes itself; for reading, where close cannot lose data.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, const char* action) {
    fd_ = uninterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC); });
    if (fd_ < 0) fail_errno(path, action, errno);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

struct stat status_of(int fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail_errno(path, "read its size", errno);
  return status;
}

void fsync_opened(const std::string& path, int flags) {
  const Descriptor file(path, flags, "open for fsync");
  if (uninterrupted([&] { return ::fsync(file.get()); }) != 0) fail_errno(path, "fsync", errno);
}

// The folder that holds the entry of `path`.
std::string parent_of(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// Writes `name` + `suffix` and renames it to what `name` leads to.
void commit_file(const std::string& name, const std::string& suffix, const WriteAt& write) {
  const std::string path = resolved_output(name, "writing");
  const std::string temporary = path + suffix;
  try {
    write(temporary);
    rename_path(temporary, path);
  } catch (...) {
    ::unlink(temporary.c_str());
    throw;
  }
  fsync_directory(parent_of(path));
}

}  // namespace

std::string read_file(const std::string& path, size_t max_bytes) {
  const Descriptor file(path, O_RDONLY, "open");
  const struct stat status = status_of(file.get(), path);
  const auto refuse_long = [&] {
    fail(ErrorCode::damaged, "{}: longer than the limit of {} bytes", path, max_bytes);
  };
  std::string bytes;
  if (S_ISREG(status.st_mode)) {
    if (static_cast<uint64_t>(status.st_size) > max_bytes) refuse_long();
    bytes.reserve(static_cast<size_t>(status.st_size) + 1);
  }
  // Read until the end, not until the size: pipes and files of /proc have none.
  for (;;) {
    const size_t before = bytes.size();
    const size_t room = std::max(bytes.capacity() - before, size_t{1});
    bytes.resize(before + std::min(room, kReadPieceBytes));
    const ssize_t got = uninterrupted(
        [&] { return ::read(file.get(), bytes.data() + before, bytes.size() - before); });
    if (got < 0) fail_errno(path, "read", errno);
    bytes.resize(before + static_cast<size_t>(got));
    if (bytes.size() > max_bytes) refuse_long();
    if (got == 0) return bytes;
    if (bytes.size() == bytes.capacity()) bytes.reserve(2 * bytes.size());
  }
}

void write_file_atomic(const std::string& path, std::string_view bytes) {
  commit_file(path, ".tmp-" + std::to_string(::getpid()), [&](const std::string& temporary) {
    FileWriter writer(temporary);
    writer.write(bytes.data(), bytes.size());
    writer.close();
  });
}

void write_file_atomic(const std::string& path, const WriteAt& write) {
  commit_file(path, ".tmp", write);
}

void write_folder_atomic(const std::string& name, const WriteAt& write, IfExists existing) {
  const std::string path = resolved_output(name, "writing");
  const std::string temporary = path + ".tmp";
  bool renamed = false;
  try {
    remove_tree(temporary);
    make_directories(temporary);
    write(temporary);
    fsync_directory(temporary);
    if (existing == IfExists::replace) remove_tree(path);
    rename_path(temporary, path);
    renamed = true;
    fsync_directory(parent_of(path));
  } catch (...) {
    std::error_code ignored;  // the failure that is reported is the first one
    std::filesystem::remove_all(temporary, ignored);
    if (renamed) std::filesystem::remove_all(path, ignored);
    throw;
  }
}

void fsync_file(const std::string& path) { fsync_opened(path, O_RDONLY); }

void fsync_directory(const std::string& path) { fsync_opened(path, O_RDONLY | O_DIRECTORY); }

void make_directories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) fail(ErrorCode::io, "{}: cannot create the folder: {}", path, error.message());
}

void rename_path(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) == 0) return;
  const int error = errno;
  fail(ErrorCode::io, "{}: cannot rename to {}: {}", from, to,
       std::generic_category().message(error));
}

void remove_tree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) fail(ErrorCode::io, "{}: cannot remove: {}", path, error.message());
}

FileWriter::FileWriter(const std::string& path) : path_(path) {
  descriptor_ = uninterrupted(
      [&] { return ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644); });
  if (descriptor_ < 0) fail_errno(path_, "create", errno);
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileWriter::write(const void* data, size_t num_bytes) {
  OSP_CHECK(descriptor_ >= 0, "{} is closed", path_);
  const char* next = static_cast<const char*>(data);
  while (num_bytes > 0) {
    leave_files_if_stopped("a file was written");
    const size_t piece = std::min(num_bytes, kLargestWrite);
    const ssize_t written = uninterrupted([&] { return ::write(descriptor_, next, piece); });
    if (written <= 0) fail_errno(path_, "write", written < 0 ? errno : EIO);
    next += written;
    num_bytes -= static_cast<size_t>(written);
    bytes_written_ += static_cast<uint64_t>(written);
  }
}

void FileWriter::close(bool sync) {
  OSP_CHECK(descriptor_ >= 0, "{} is closed", path_);
  close_written(path_, std::exchange(descriptor_, -1), sync);
}

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor file(path, O_RDONLY, "open");
  const struct stat status = status_of(file.get(), path);
  if (!S_ISREG(status.st_mode)) fail(ErrorCode::io, "{}: cannot map: not a regular file", path);
  size_ = static_cast<size_t>(status.st_size);
  if (size_ == 0) return;
  void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED) fail_errno(path, "map", errno);
  data_ = static_cast<const std::byte*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void release_pages(std::span<const std::byte> mapped) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(mapped.data());
  const uintptr_t first = (begin + page - 1) / page * page;
  const uintptr_t end = (begin + mapped.size()) / page * page;
  if (first >= end) return;
  std::byte* whole_pages = const_cast<std::byte*>(mapped.data()) + (first - begin);
  // Advice: where it is not taken, memory is only given back later.
  ::madvise(whole_pages, end - first, MADV_DONTNEED);
}

FileLock::FileLock(const std::string& path, bool wait) {
  descriptor_ =
      uninterrupted([&] { return ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644); });
  if (descriptor_ < 0) fail_errno(path, "create the lock file", errno);
  const int kind = wait ? LOCK_EX : LOCK_EX | LOCK_NB;
  if (uninterrupted([&] { return ::flock(descriptor_, kind); }) == 0) return;
  const int error = errno;
  ::close(descriptor_);
  if (error == EWOULDBLOCK) {
    fail(ErrorCode::usage,
         "{}: another process holds this lock; wait for it or choose another folder", path);
  }
  fail_errno(path, "lock", error);
}

FileLock::~FileLock() { ::close(descriptor_); }

bool path_exists(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(path, error);
}

bool is_directory(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

}  // namespace osp
