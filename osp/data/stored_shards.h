// Token shards in an object store (osp/data/object_store.h): the folder's index, and its shards,
// each of which is fetched whole into the cache of this machine (osp/data/object_cache.h).
//
// Tested by tests/python/test_object_stores.py.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "osp/data/object_cache.h"
#include "osp/data/object_store.h"
#include "osp/data/shards.h"

namespace osp {

class StoredShards {
 public:
  // `uri` is a folder with index.json, or that file. Lists the folder and reads the index; errors
  // as ObjectStore's and parse_shard_index()'s, Error(usage) if there is no index.
  explicit StoredShards(const std::string& uri);

  const std::string& uri() const { return store_.uri(); }
  std::string index_uri() const { return join_uri(uri(), kIndexFileName); }
  const ShardIndex& index() const { return index_; }
  const ObjectCache& cache() const { return cache_; }

  // Error(damaged) for a shard that is missing or has not the size that its tokens take,
  // Error(usage) for one that is larger than the whole cache.
  void check(const ShardEntry& shard) const;
  uint64_t bytes_of(const ShardEntry& shard) const;
  bool is_here(const ShardEntry& shard) const { return cache_.has(entry_of(shard)); }
  // The shard's copy. One that lay in the cache is compared with its hash if `verify`, and fetched
  // again where it differs.
  std::unique_ptr<CachedFile> get(const ShardEntry& shard, bool verify) const;
  // tokenizer.json; "" if the index names none.
  std::string tokenizer_json() const;

 private:
  CacheEntry entry_of(const ShardEntry& shard) const;
  std::unique_ptr<CachedFile> get(const std::string& name, const CacheEntry& entry,
                                  bool verify) const;
  uint64_t listed_bytes(const std::string& name) const;

  ObjectStore store_;
  std::vector<StoredFile> files_;
  ShardIndex index_;
  ObjectCache cache_;
};

}  // namespace osp
