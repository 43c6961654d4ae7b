// A folder of this machine with copies of files from object stores, shared by all processes of it.
//
// A copy is named by the SHA-256 of its content, so equal files of several stores are one. Whoever
// needs a file that is not there writes it to HASH.part, compares the hash and renames it: what has
// the final name is whole. HASH.part is locked (flock) meanwhile, so the other processes that need
// the file wait instead of fetching it as well; what an interrupted process leaves of it is not
// locked and is written over. Copies that no process has open are removed, the least recently used
// first, so that all of them and what is being fetched stay below the limit.
//
// Tested by osp/data/object_cache_test.cpp and tests/python/test_object_stores.py.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "osp/base/file.h"

namespace osp {

inline constexpr const char* kCacheVariable = "OSP_CACHE";
inline constexpr const char* kCacheSizeVariable = "OSP_CACHE_SIZE";

struct CacheOptions {
  std::string folder;
  uint64_t max_bytes = 0;
};

// OSP_CACHE, or osp below XDG_CACHE_HOME or ~/.cache; OSP_CACHE_SIZE ("20GB"), or 50 GB.
// Error(usage) for a size that is none, or if no folder can be told.
CacheOptions cache_options();

// The content that a copy must have.
struct CacheEntry {
  std::string sha256;
  uint64_t num_bytes = 0;
};

// A mapped copy, which is not removed while this lives.
class CachedFile {
 public:
  CachedFile(MappedFile file, int descriptor, bool is_fresh)
      : file_(std::move(file)), descriptor_(descriptor), is_fresh_(is_fresh) {}
  ~CachedFile();
  CachedFile(const CachedFile&) = delete;
  CachedFile& operator=(const CachedFile&) = delete;

  std::span<const std::byte> bytes() const { return file_.bytes(); }
  const std::string& path() const { return file_.path(); }
  // True if this call has fetched it, and so compared its hash.
  bool is_fresh() const { return is_fresh_; }
  // Tells whether another call gives the same file.
  uint64_t inode() const;

 private:
  MappedFile file_;
  int descriptor_;
  bool is_fresh_;
};

class ObjectCache {
 public:
  // Writes all bytes of a file, in order.
  using Sink = std::function<void(const char* data, size_t size)>;
  using Fetch = std::function<void(const Sink& sink)>;

  // Creates the folder. Error(io) if nothing can be written there.
  explicit ObjectCache(const CacheOptions& options);

  const CacheOptions& options() const { return options_; }
  bool has(const CacheEntry& entry) const;
  // The copy, fetched by `fetch` unless it is there; `what` is its name in errors. Error(damaged)
  // if what was fetched twice does not have the hash; Error(usage) if the limit has no room for it
  // beside what other processes have open; Error(io) where the disk has none. Thread-safe.
  std::unique_ptr<CachedFile> get(const CacheEntry& entry, const std::string& what,
                                  const Fetch& fetch) const;
  // Removes a copy whose content has turned out to be wrong.
  void discard(const CacheEntry& entry) const;

 private:
  std::string path_of(const CacheEntry& entry) const {
    return options_.folder + "/" + entry.sha256;
  }
  std::unique_ptr<CachedFile> open_copy(const CacheEntry& entry) const;
  int lock_part(const std::string& part) const;
  uint64_t take_room(int descriptor, const std::string& part, uint64_t num_bytes) const;
  void reserve(int descriptor, const std::string& part, const CacheEntry& entry,
               const std::string& what) const;
  void fetch_into(int descriptor, const CacheEntry& entry, const std::string& what,
                  const Fetch& fetch) const;

  CacheOptions options_;
};

}  // namespace osp
