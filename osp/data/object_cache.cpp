#include "osp/data/object_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <system_error>
#include <thread>
#include <vector>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/quantity.h"
#include "osp/base/sha256.h"
#include "osp/base/timing.h"

namespace osp {
namespace {

constexpr uint64_t kDefaultCacheBytes = 50'000'000'000;
constexpr const char* kPart = ".part";
// Its lock is held while room is taken and while a file gets its final name, so that who takes room
// has a complete list of the files.
constexpr const char* kRoomLock = "/room.lock";
// A signal leaves what is being fetched this long: a training run would lose the step otherwise.
constexpr double kPatienceWithSignal_s = 20;
// Others that use files are waited for so long.
constexpr double kPatienceWithOthers_s = 2;

std::string reason(int error) { return std::generic_category().message(error); }

// A file descriptor that is closed at the end.
class OpenFile {
 public:
  explicit OpenFile(int number) : number_(number) {}
  OpenFile(const std::string& path, int flags)
      : OpenFile(::open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
  ~OpenFile() {
    if (number_ >= 0) ::close(number_);
  }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;

  int get() const { return number_; }
  int release() { return std::exchange(number_, -1); }

 private:
  int number_;
};

struct stat status_of_open(int descriptor, const std::string& path) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) fail(ErrorCode::io, "{}: {}", path, reason(errno));
  return status;
}

bool try_lock(int descriptor, int kind) { return ::flock(descriptor, kind | LOCK_NB) == 0; }

// A file of the cache's folder that may be removed.
struct Candidate {
  std::string path;
  uint64_t num_bytes = 0;
  timespec used{};
};

std::vector<Candidate> files_of(const std::string& folder) {
  std::vector<Candidate> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    struct stat status {};
    // Files of other kinds are somebody else's.
    const std::string hash = name.substr(0, name.find('.'));
    if (hash.size() != 64 || (name != hash && name != hash + kPart)) continue;
    if (::stat(entry.path().c_str(), &status) != 0) continue;  // gone meanwhile
    files.push_back({entry.path().string(), static_cast<uint64_t>(status.st_size), status.st_atim});
  }
  if (error) fail(ErrorCode::io, "{}: cannot list the folder: {}", folder, error.message());
  std::sort(files.begin(), files.end(), [](const Candidate& a, const Candidate& b) {
    return std::pair(a.used.tv_sec, a.used.tv_nsec) < std::pair(b.used.tv_sec, b.used.tv_nsec);
  });
  return files;
}

// Removes a file unless somebody has it open.
bool remove_unused(const std::string& path) {
  const OpenFile file(path, O_RDWR);
  if (file.get() < 0) return errno == ENOENT;
  return try_lock(file.get(), LOCK_EX) && ::unlink(path.c_str()) == 0;
}

// Marks a file as used now, unless it was a moment ago. Its content stays as old as it is.
void touch(int descriptor, const struct stat& status) {
  constexpr double kMoment_s = 0.01;
  const double used = static_cast<double>(status.st_atim.tv_sec) +
                      1e-9 * static_cast<double>(status.st_atim.tv_nsec);
  if (std::abs(wall_clock_seconds() - used) < kMoment_s) return;
  const timespec times[2] = {{0, UTIME_NOW}, {0, UTIME_OMIT}};
  ::futimens(descriptor, times);  // who may only read the folder leaves the order as it is
}

}  // namespace

CacheOptions cache_options() {
  CacheOptions options{.folder = "", .max_bytes = kDefaultCacheBytes};
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr && *value != '\0' ? std::optional<std::string>(value) : std::nullopt;
  };
  if (const auto folder = set(kCacheVariable)) {
    options.folder = *folder;
  } else if (const auto caches = set("XDG_CACHE_HOME")) {
    options.folder = *caches + "/osp";
  } else if (const auto home = set("HOME")) {
    options.folder = *home + "/.cache/osp";
  } else {
    fail(ErrorCode::usage, "{} is not set, nor is HOME: name a folder for files from object stores",
         kCacheVariable);
  }
  if (const auto size = set(kCacheSizeVariable)) {
    options.max_bytes = static_cast<uint64_t>(parse_quantity(*size, "B", kCacheSizeVariable));
  }
  return options;
}

CachedFile::~CachedFile() { ::close(descriptor_); }

uint64_t CachedFile::inode() const { return status_of_open(descriptor_, file_.path()).st_ino; }

ObjectCache::ObjectCache(const CacheOptions& options) : options_(options) {
  make_directories(options_.folder);
  if (::access(options_.folder.c_str(), W_OK | X_OK) != 0) {
    fail(ErrorCode::io,
         "{}: cannot write there ({}); {} names the folder for files from object "
         "stores",
         options_.folder, reason(errno), kCacheVariable);
  }
}

bool ObjectCache::has(const CacheEntry& entry) const {
  struct stat status {};
  return ::stat(path_of(entry).c_str(), &status) == 0 &&
         static_cast<uint64_t>(status.st_size) == entry.num_bytes;
}

// Null if it is not there.
std::unique_ptr<CachedFile> ObjectCache::open_copy(const CacheEntry& entry) const {
  const std::string path = path_of(entry);
  OpenFile file(path, O_RDONLY);
  if (file.get() < 0) {
    if (errno == ENOENT) return nullptr;
    fail(ErrorCode::io, "{}: cannot open: {}", path, reason(errno));
  }
  // Only who removes it holds the other lock, for a moment.
  if (::flock(file.get(), LOCK_SH) != 0)
    fail(ErrorCode::io, "{}: cannot lock: {}", path, reason(errno));
  const struct stat status = status_of_open(file.get(), path);
  if (status.st_nlink == 0) return nullptr;
  if (static_cast<uint64_t>(status.st_size) != entry.num_bytes) {
    discard(entry);
    return nullptr;
  }
  touch(file.get(), status);
  MappedFile mapped(path);
  return std::make_unique<CachedFile>(std::move(mapped), file.release(), false);
}

void ObjectCache::discard(const CacheEntry& entry) const { ::unlink(path_of(entry).c_str()); }

// The open and locked file, or -1 if another process is fetching it.
int ObjectCache::lock_part(const std::string& part) const {
  OpenFile file(part, O_RDWR | O_CREAT);
  if (file.get() < 0) {
    fail(ErrorCode::io, "{}: cannot create: {}; {} names the folder for files from object stores",
         part, reason(errno), kCacheVariable);
  }
  if (!try_lock(file.get(), LOCK_EX)) return -1;
  // Between the two calls it may have been renamed or removed.
  struct stat named {};
  const struct stat status = status_of_open(file.get(), part);
  if (::stat(part.c_str(), &named) != 0 || named.st_ino != status.st_ino) return -1;
  return file.release();
}

// Removes unused copies until there is room beside them, and takes it: the file has its final size
// from the beginning. Returns the bytes that are in the way, 0 if none.
uint64_t ObjectCache::take_room(int descriptor, const std::string& part, uint64_t num_bytes) const {
  const FileLock lock(options_.folder + kRoomLock, /*wait=*/true);
  if (::ftruncate(descriptor, 0) != 0) fail(ErrorCode::io, "{}: {}", part, reason(errno));
  const std::vector<Candidate> files = files_of(options_.folder);
  uint64_t others = 0;
  for (const Candidate& file : files) others += file.path == part ? 0 : file.num_bytes;
  for (const Candidate& file : files) {
    if (others + num_bytes <= options_.max_bytes) break;
    if (file.path != part && remove_unused(file.path)) others -= file.num_bytes;
  }
  if (others + num_bytes > options_.max_bytes) return others;
  const int error =
      num_bytes == 0 ? 0 : ::posix_fallocate(descriptor, 0, static_cast<off_t>(num_bytes));
  if (error == 0) return 0;
  fail(ErrorCode::io, "{}: no room for {} ({}): free space, or name another folder with {}", part,
       format_bytes(static_cast<double>(num_bytes)), reason(error), kCacheVariable);
}

void ObjectCache::reserve(int descriptor, const std::string& part, const CacheEntry& entry,
                          const std::string& what) const {
  const auto refuse = [&](const std::string& where) {
    fail(ErrorCode::usage, "{}: {} do not fit into the cache of {} at {}{}: raise {}", what,
         format_bytes(static_cast<double>(entry.num_bytes)),
         format_bytes(static_cast<double>(options_.max_bytes)), options_.folder, where,
         kCacheSizeVariable);
  };
  if (entry.num_bytes > options_.max_bytes) refuse("");
  // Files are in use for moments only.
  const auto start = std::chrono::steady_clock::now();
  while (const uint64_t others = take_room(descriptor, part, entry.num_bytes)) {
    if (seconds_since(start) > kPatienceWithOthers_s) {
      refuse(fmt::format(" beside {} that are in use", format_bytes(static_cast<double>(others))));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

namespace {

// Writes what `fetch` gives into a file of reserved size; true if it is what was expected.
bool write_part(int descriptor, const std::string& part, const CacheEntry& entry,
                const ObjectCache::Fetch& fetch) {
  const auto start = std::chrono::steady_clock::now();
  Sha256 hash;
  uint64_t written = 0;
  bool too_long = false;
  fetch([&](const char* data, size_t size) {
    if (stop_requested() != 0 && seconds_since(start) > kPatienceWithSignal_s) {
      leave_if_stopped("a file was fetched from a store");
    }
    too_long = too_long || size > entry.num_bytes - written;
    if (too_long) return;
    hash.update(data, size);
    for (size_t done = 0; done < size;) {
      const ssize_t count =
          ::pwrite(descriptor, data + done, size - done, static_cast<off_t>(written));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        fail(ErrorCode::io, "{}: cannot write: {}: free space, or name another folder with {}",
             part, reason(count < 0 ? errno : EIO), kCacheVariable);
      }
      done += static_cast<size_t>(count);
      written += static_cast<uint64_t>(count);
    }
  });
  return !too_long && written == entry.num_bytes && hash.hex() == entry.sha256;
}

}  // namespace

// Fills the locked file: twice, if need be, since what comes over a network may be damaged on its
// way.
void ObjectCache::fetch_into(int descriptor, const CacheEntry& entry, const std::string& what,
                             const Fetch& fetch) const {
  const std::string part = path_of(entry) + kPart;
  for (int attempt = 0; attempt < 2; ++attempt) {
    reserve(descriptor, part, entry, what);
    if (!write_part(descriptor, part, entry, fetch)) continue;
    if (::fdatasync(descriptor) != 0) fail(ErrorCode::io, "{}: {}", part, reason(errno));
    return;
  }
  fail(ErrorCode::damaged,
       "{}: was fetched twice and is not the file of {} bytes with SHA-256 {}… (damaged file): put "
       "it "
       "there again, or tokenize again",
       what, entry.num_bytes, entry.sha256.substr(0, 12));
}

std::unique_ptr<CachedFile> ObjectCache::get(const CacheEntry& entry, const std::string& what,
                                             const Fetch& fetch) const {
  const std::string path = path_of(entry), part = path + kPart;
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    if (auto copy = open_copy(entry)) return copy;
    OpenFile file(lock_part(part));
    if (file.get() >= 0) {
      // Its last owner may have completed it before this one had the lock.
      if (auto copy = open_copy(entry)) {
        ::unlink(part.c_str());
        return copy;
      }
      try {
        fetch_into(file.get(), entry, what, fetch);
        const FileLock lock(options_.folder + kRoomLock, /*wait=*/true);
        rename_path(part, path);
      } catch (...) {
        ::unlink(part.c_str());
        throw;
      }
      ::flock(file.get(), LOCK_SH);
      return std::make_unique<CachedFile>(MappedFile(path), file.release(), true);
    }
    if (seconds_since(start) > kPatienceWithSignal_s) {
      leave_if_stopped("another process fetched a file from a store");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

}  // namespace osp
