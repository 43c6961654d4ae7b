#include "osp/base/output.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <system_error>

#include "osp/base/error.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLongestName = 255;  // of Linux
constexpr size_t kSuffixRoom = 24;    // for ".tmp-4194304", ".work" and the like

std::string parent_folder_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// A folder onto which something is mounted is on another device than the folder that holds it.
bool is_mount_point(const std::string& path) {
  struct stat own {
  }, parent{};
  return ::stat(path.c_str(), &own) == 0 && ::stat(parent_folder_of(path).c_str(), &parent) == 0 &&
         own.st_dev != parent.st_dev;
}

void check_kind(const std::string& path, OutputKind kind, const std::string& option) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return;
  const bool is_folder = fs::is_directory(status);
  const bool folder_wanted = kind == OutputKind::new_folder || kind == OutputKind::folder;
  if (is_folder && !folder_wanted) {
    fail(ErrorCode::usage, "{} {}: is a folder; name a file", option, path);
  }
  if (!is_folder && (folder_wanted || !fs::is_regular_file(status))) {
    fail(ErrorCode::usage, "{} {}: exists already and is no {}; choose another name", option, path,
         folder_wanted ? "folder" : "file");
  }
  if (kind == OutputKind::new_file || (kind == OutputKind::new_folder && !fs::is_empty(path))) {
    fail(ErrorCode::usage, "{} {}: exists already; remove it or choose another name", option, path);
  }
  if (kind == OutputKind::new_folder && is_mount_point(path)) {
    fail(ErrorCode::usage,
         "{} {}: is a mount point, which cannot be replaced as a whole; name a folder inside it",
         option, path);
  }
}

void check_name_length(const std::string& path, const std::string& option) {
  const std::string name = fs::path(path).filename().string();
  if (name.size() + kSuffixRoom <= kLongestName) return;
  fail(ErrorCode::usage, "{} {}: the name has {} bytes; at most {} leave room for temporary names",
       option, path, name.size(), kLongestName - kSuffixRoom);
}

// Opens and locks a file that its holder removes: a file that was removed between opening and
// locking is not the one that others lock.
int lock_removable_file(const std::string& lock, const std::string& path,
                        const std::string& option) {
  for (;;) {
    const int descriptor = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0) {
      fail(ErrorCode::io, "{} {}: cannot be written: {}", option, path,
           std::generic_category().message(errno));
    }
    if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      ::close(descriptor);
      if (error == EINTR) continue;
      if (error != EWOULDBLOCK) {
        fail(ErrorCode::io, "{}: cannot be locked: {}", lock,
             std::generic_category().message(error));
      }
      fail(ErrorCode::usage,
           "{} {}: another process is writing it; wait for it or choose another name", option,
           path);
    }
    struct stat held {
    }, named{};
    if (::fstat(descriptor, &held) == 0 && ::stat(lock.c_str(), &named) == 0 &&
        held.st_ino == named.st_ino) {
      return descriptor;
    }
    ::close(descriptor);
  }
}

}  // namespace

std::string resolved_output(const std::string& path, const std::string& option) {
  constexpr int kMostLinks = 40;  // as Linux follows
  std::string resolved = path;
  for (const char* scheme : {"s3://", "gs://"}) {
    if (!path.starts_with(scheme)) continue;
    fail(ErrorCode::usage,
         "{} {}: results are written to a local folder or file only; name one, and copy it there "
         "afterwards (aws s3 cp --recursive, gcloud storage cp -r)",
         option, path);
  }
  for (int links = 0;; ++links) {
    while (resolved.size() > 1 && resolved.back() == '/') resolved.pop_back();
    if (resolved.empty()) fail(ErrorCode::usage, "{}: the name is empty", option);
    std::error_code error;
    const fs::path target = fs::read_symlink(resolved, error);
    if (error) break;  // no link
    if (links == kMostLinks) fail(ErrorCode::usage, "{} {}: a loop of links", option, path);
    resolved = (target.is_absolute() ? target : fs::path(resolved).parent_path() / target).string();
  }
  const std::string name = fs::path(resolved).filename().string();
  if (name != "." && name != ".." && resolved != "/") return resolved;
  // These have no name beside which a temporary one could be made; their real path has.
  std::error_code error;
  const std::string real = fs::canonical(resolved, error).string();
  if (error || real == "/") fail(ErrorCode::usage, "{} {}: name a folder or file", option, path);
  return real;
}

ReservedOutput::ReservedOutput(const std::string& path, OutputKind kind, const std::string& option)
    : path_(resolved_output(path, option)), lock_path_(path_ + ".lock") {
  const bool is_file = kind == OutputKind::file || kind == OutputKind::new_file;
  if (is_file && path.ends_with('/')) {
    fail(ErrorCode::usage, "{} {}: ends like a folder; name a file", option, path);
  }
  check_name_length(path_, option);
  // By the given name as well: a link of /proc to a pipe, as /dev/stdout, leads to no
  // name that exists.
  for (const std::string& name : {path, path_}) check_kind(name, kind, option);
  if (!is_file) make_directories(parent_folder_of(path_));
  descriptor_ = lock_removable_file(lock_path_, path_, option);
}

ReservedOutput::~ReservedOutput() {
  ::unlink(lock_path_.c_str());
  ::close(descriptor_);
}

void check_distinct_outputs(const std::vector<std::pair<std::string, std::string>>& outputs) {
  std::map<std::string, std::string> seen;
  for (const auto& [option, path] : outputs) {
    if (path.empty()) continue;
    std::error_code error;
    const std::string resolved = resolved_output(path, option);
    const std::string whole = fs::weakly_canonical(resolved, error).string();
    const auto [place, is_new] = seen.try_emplace(error ? resolved : whole, option);
    if (!is_new) {
      fail(ErrorCode::usage, "{} and {} both name {}: choose two names", place->second, option,
           path);
    }
  }
}

}  // namespace osp
