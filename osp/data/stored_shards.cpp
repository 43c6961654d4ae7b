#include "osp/data/stored_shards.h"

#include <algorithm>
#include <string_view>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/sha256.h"

namespace osp {
namespace {

constexpr size_t kMaxStoredIndexBytes = size_t{256} << 20;

// s3://b/tokens/index.json?q → s3://b/tokens?q
std::string shard_folder(const std::string& uri) {
  const std::string path = uri_without_query(uri), index = std::string("/") + kIndexFileName;
  if (!path.ends_with(index)) return uri;
  return path.substr(0, path.size() - index.size()) + uri.substr(path.size());
}

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

StoredShards::StoredShards(const std::string& uri)
    : store_(shard_folder(uri)), files_(store_.list()), cache_(cache_options()) {
  const auto is_index = [](const StoredFile& file) { return file.name == kIndexFileName; };
  if (std::none_of(files_.begin(), files_.end(), is_index)) {
    fail(ErrorCode::usage,
         "{}: no {} there; expected the URI of a folder written by `osp tokenize` (.bin shards are "
         "read from local folders only)",
         store_.uri(), kIndexFileName);
  }
  index_ = parse_shard_index(store_.read(kIndexFileName, kMaxStoredIndexBytes), index_uri());
}

uint64_t StoredShards::listed_bytes(const std::string& name) const {
  const auto found = std::find_if(files_.begin(), files_.end(),
                                  [&](const StoredFile& file) { return file.name == name; });
  if (found == files_.end()) {
    fail(ErrorCode::damaged, "{}: the file is missing; {} lists it: upload the whole folder again",
         join_uri(uri(), name), kIndexFileName);
  }
  return found->num_bytes;
}

uint64_t StoredShards::bytes_of(const ShardEntry& shard) const {
  return shard.num_tokens * static_cast<uint64_t>(index_.token_bytes);
}

CacheEntry StoredShards::entry_of(const ShardEntry& shard) const {
  return {.sha256 = shard.sha256, .num_bytes = bytes_of(shard)};
}

void StoredShards::check(const ShardEntry& shard) const {
  const std::string where = join_uri(uri(), shard.file);
  const uint64_t size = listed_bytes(shard.file), expected = bytes_of(shard);
  if (size != expected) {
    fail(ErrorCode::damaged,
         "{}: {} bytes, but {} says {} tokens, which take {} bytes: upload the whole folder again",
         where, size, kIndexFileName, shard.num_tokens, expected);
  }
  if (size > cache_.options().max_bytes) {
    fail(ErrorCode::usage,
         "{}: one shard of {} is more than the cache at {} may hold, {}: raise {}", where,
         format_bytes(static_cast<double>(size)), cache_.options().folder,
         format_bytes(static_cast<double>(cache_.options().max_bytes)), kCacheSizeVariable);
  }
}

std::unique_ptr<CachedFile> StoredShards::get(const ShardEntry& shard, bool verify) const {
  return get(shard.file, entry_of(shard), verify);
}

std::unique_ptr<CachedFile> StoredShards::get(const std::string& name, const CacheEntry& entry,
                                              bool verify) const {
  const auto fetch = [&](const ObjectCache::Sink& sink) {
    const auto stream = store_.open(name, static_cast<int64_t>(entry.num_bytes));
    std::vector<char> piece(1 << 20);
    while (const size_t count = stream->read(piece.data(), piece.size())) sink(piece.data(), count);
  };
  const std::string where = join_uri(uri(), name);
  auto file = cache_.get(entry, where, fetch);
  if (!verify || file->is_fresh() || sha256_hex(text_of(file->bytes())) == entry.sha256)
    return file;
  // The disk has changed it since it was fetched.
  cache_.discard(entry);
  return cache_.get(entry, where, fetch);
}

std::string StoredShards::tokenizer_json() const {
  if (index_.tokenizer_sha256.empty()) return "";
  const auto file =
      get(kTokenizerFileName,
          {.sha256 = index_.tokenizer_sha256, .num_bytes = listed_bytes(kTokenizerFileName)}, true);
  return std::string(text_of(file->bytes()));
}

}  // namespace osp
