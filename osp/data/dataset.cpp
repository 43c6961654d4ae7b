#include "osp/data/dataset.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/printable.h"
#include "osp/base/sha256.h"
#include "osp/data/shards.h"
#include "osp/data/shards_bin.h"
#include "osp/data/stored_shards.h"
#include "osp/data/text_reader_inputs.h"

namespace osp {
namespace {

constexpr size_t kMaxIndexBytes = size_t{256} << 20;
constexpr size_t kMaxTokenizerBytes = size_t{1} << 30;

template <class Id>
int64_t load_id(const std::byte* ids, uint64_t index) {
  Id id;
  std::memcpy(&id, ids + index * sizeof(Id), sizeof(Id));
  return id;
}

template <class Id>
void copy_ids(const std::byte* ids, uint64_t begin, std::span<int64_t> out) {
  for (size_t i = 0; i < out.size(); ++i) out[i] = load_id<Id>(ids, begin + i);
}

// First index whose id is not below `vocabulary`, or `count`.
template <class Id>
uint64_t first_bad_id(const std::byte* ids, uint64_t count, int64_t vocabulary) {
  constexpr uint64_t kBlock = 4096;
  for (uint64_t begin = 0; begin < count; begin += kBlock) {
    const uint64_t end = std::min(count, begin + kBlock);
    Id largest = 0;
    for (uint64_t i = begin; i < end; ++i) {
      largest = std::max(largest, static_cast<Id>(load_id<Id>(ids, i)));
    }
    if (static_cast<int64_t>(largest) < vocabulary) continue;
    for (uint64_t i = begin; i < end; ++i) {
      if (load_id<Id>(ids, i) >= vocabulary) return i;
    }
  }
  return count;
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Identifies a .bin file without reading all of it: size and SHA-256 of its first and last 64 KiB.
std::string bin_signature(std::span<const std::byte> bytes) {
  constexpr size_t kSample = 64 << 10;
  const size_t sample = std::min(bytes.size(), kSample);
  return fmt::format("{} {} {}\n", bytes.size(), sha256_hex(as_text(bytes.first(sample))),
                     sha256_hex(as_text(bytes.last(sample))));
}

}  // namespace

// One mapped file of ids, or ids in memory or in a store, and their place in the stream.
struct MappedShard {
  std::optional<MappedFile> file = {};
  size_t header_bytes = 0;
  std::vector<uint32_t> in_memory = {};  // where there is no file
  uint64_t begin = 0;
  uint64_t num_tokens = 0;
  std::string sha256 = {};  // "": not checked
  std::unique_ptr<std::once_flag> checked = std::make_unique<std::once_flag>();
  // In a store: its copy is opened for each use, and checked where it is another than before.
  std::unique_ptr<ShardEntry> stored = {};
  std::unique_ptr<std::mutex> checking = std::make_unique<std::mutex>();
  mutable uint64_t checked_inode = 0;

  const std::byte* ids() const {
    return file ? file->bytes().data() + header_bytes
                : reinterpret_cast<const std::byte*>(in_memory.data());
  }
  // Error(damaged) if the file is not what the index says; asked of each shard before its ids are
  // believed, and done once.
  void verify() const {
    if (!sha256.empty()) std::call_once(*checked, [this] { compare_hash(); });
  }
  void compare_hash() const {
    constexpr size_t kPiece = size_t{64} << 20;
    Sha256 hash;
    for (std::span<const std::byte> rest = file->bytes(); !rest.empty();) {
      const auto piece = rest.first(std::min(rest.size(), kPiece));
      hash.update(piece.data(), piece.size());
      rest = rest.subspan(piece.size());
      if (!rest.empty()) leave_if_stopped("the data was verified");
    }
    if (hash.hex() == sha256) return;
    fail(ErrorCode::damaged,
         "{}: SHA-256 differs from {} (damaged file): tokenize again, or restore the file",
         file->path(), kIndexFileName);
  }
};

struct TokenDataset::State {
  std::vector<MappedShard> shards;
  std::optional<StoredShards> store;
  bool verify = true;
  std::atomic<int64_t> id_limit = 0;  // ids of stored shards are below it; 0: any
  int token_bytes = 2;
  uint64_t num_tokens = 0;
  int64_t vocabulary = 0;
  int64_t end_of_document = -1;
  std::string tokenizer_json;
  std::string fingerprint;

  void add(MappedShard shard) {
    shard.begin = num_tokens;
    num_tokens += shard.num_tokens;
    if (shard.num_tokens > 0) shards.push_back(std::move(shard));
  }
  void open_folder(const std::string& folder, const std::string& split);
  void open_store(const std::string& uri, const std::string& split);
  // Takes from the index what holds for all shards, and returns those of the split.
  const std::vector<ShardEntry>& use_index(const ShardIndex& index, const std::string& index_path,
                                           const std::string& split);
  std::unique_ptr<CachedFile> open_stored(const MappedShard& shard) const;
  void check_ids_of(const MappedShard& shard, const std::byte* ids, const std::string& where,
                    int64_t vocabulary_size) const;
  void open_bin(const std::string& path, const std::string& split);
};

const std::vector<ShardEntry>& TokenDataset::State::use_index(const ShardIndex& index,
                                                              const std::string& index_path,
                                                              const std::string& split) {
  // Find the split in the index.
  const auto found = index.splits.find(split);
  if (found == index.splits.end()) {
    std::string names;
    for (const auto& [name, unused] : index.splits) names += (names.empty() ? "" : ", ") + name;
    fail(ErrorCode::usage,
         "{}: no split \"{}\"; it has: {} (see `osp tokenize --validation-fraction`)", index_path,
         split, printable(names, 200));
  }
  token_bytes = index.token_bytes;
  vocabulary = index.vocabulary;
  end_of_document = index.end_of_document;
  std::string signature =
      fmt::format("{} {} {} {}\n", split, token_bytes, vocabulary, end_of_document);
  for (const ShardEntry& entry : found->second.shards) signature += entry.sha256 + "\n";
  fingerprint = sha256_hex(signature);
  return found->second.shards;
}

void TokenDataset::State::open_store(const std::string& uri, const std::string& split) {
  store.emplace(uri);
  for (const ShardEntry& entry : use_index(store->index(), store->index_uri(), split)) {
    store->check(entry);
    MappedShard shard{.num_tokens = entry.num_tokens};
    shard.stored = std::make_unique<ShardEntry>(entry);
    add(std::move(shard));
  }
  tokenizer_json = store->tokenizer_json();
}

std::unique_ptr<CachedFile> TokenDataset::State::open_stored(const MappedShard& shard) const {
  const std::lock_guard lock(*shard.checking);
  auto file = store->get(*shard.stored, verify && shard.checked_inode == 0);
  if (file->inode() == shard.checked_inode) return file;
  if (verify && shard.checked_inode != 0 && !file->is_fresh()) {
    file = store->get(*shard.stored, true);  // another process has fetched it again meanwhile
  }
  if (const int64_t limit = id_limit; limit > 0) {
    check_ids_of(shard, file->bytes().data(), join_uri(store->uri(), shard.stored->file), limit);
  }
  shard.checked_inode = file->inode();
  return file;
}

void TokenDataset::State::open_folder(const std::string& folder, const std::string& split) {
  const std::string index_path = folder + "/" + kIndexFileName;
  const ShardIndex index = parse_shard_index(read_file(index_path, kMaxIndexBytes), index_path);
  // Map the shards; their sizes must be those of the index.
  for (const ShardEntry& entry : use_index(index, index_path, split)) {
    const std::string path = folder + "/" + entry.file;
    if (!path_exists(path)) {
      fail(ErrorCode::damaged, "{}: the file is missing; {} lists it with {} tokens", path,
           index_path, entry.num_tokens);
    }
    MappedShard shard{.file = MappedFile(path), .num_tokens = entry.num_tokens};
    const uint64_t expected = entry.num_tokens * static_cast<uint64_t>(token_bytes);
    const uint64_t size = shard.file->bytes().size();
    if (size != expected) {
      fail(ErrorCode::damaged,
           "{}: {} bytes, but {} says {} tokens, which take {} bytes ({}): tokenize again", path,
           size, index_path, entry.num_tokens, expected,
           size < expected ? "truncated file" : "bytes after the last token");
    }
    if (verify) shard.sha256 = entry.sha256;
    add(std::move(shard));
  }
  // Read the tokenizer that made the shards, if they have one.
  if (index.tokenizer_sha256.empty()) return;
  const std::string tokenizer_path = folder + "/" + kTokenizerFileName;
  tokenizer_json = read_file(tokenizer_path, kMaxTokenizerBytes);
  if (sha256_hex(tokenizer_json) != index.tokenizer_sha256) {
    fail(ErrorCode::damaged,
         "{}: SHA-256 differs from {}: this is not the tokenizer that made the shards",
         tokenizer_path, index_path);
  }
}

void TokenDataset::State::open_bin(const std::string& path, const std::string& split) {
  std::string signature;
  for (const std::string& file : find_bin_shards(path, split)) {
    MappedShard shard{.file = MappedFile(file), .header_bytes = kBinHeaderBytes};
    shard.num_tokens = parse_bin_shard(shard.file->bytes(), file);
    signature += bin_signature(shard.file->bytes());
    add(std::move(shard));
  }
  fingerprint = sha256_hex(signature);
}

TokenDataset TokenDataset::open(const std::string& path, const std::string& split, bool verify) {
  auto state = std::make_unique<State>();
  state->verify = verify;
  if (is_store_uri(path)) {
    state->open_store(path, split);
  } else if (is_directory(path) && path_exists(path + "/" + kIndexFileName)) {
    state->open_folder(path, split);
  } else {
    state->open_bin(path, split);
  }
  if (state->num_tokens == 0) {
    fail(ErrorCode::damaged, "{}: split \"{}\" has no tokens", path, split);
  }
  return TokenDataset(std::move(state));
}

TokenDataset TokenDataset::from_memory(std::span<const int64_t> ids, int64_t vocabulary) {
  if (ids.empty()) fail(ErrorCode::usage, "no tokens were given");
  MappedShard shard{.num_tokens = ids.size()};
  for (const int64_t id : ids) {
    if (id < 0 || id >= vocabulary) {
      fail(ErrorCode::usage, "token id {} is outside the vocabulary of {}", id, vocabulary);
    }
    shard.in_memory.push_back(static_cast<uint32_t>(id));
  }
  auto state = std::make_unique<State>();
  state->token_bytes = 4;
  state->vocabulary = vocabulary;
  state->fingerprint = sha256_hex({reinterpret_cast<const char*>(shard.ids()), ids.size() * 4});
  state->add(std::move(shard));
  return TokenDataset(std::move(state));
}

TokenDataset::TokenDataset(std::unique_ptr<State> state) : state_(std::move(state)) {}
TokenDataset::~TokenDataset() = default;
TokenDataset::TokenDataset(TokenDataset&&) noexcept = default;

uint64_t TokenDataset::num_bytes() const {
  return state_->num_tokens * static_cast<uint64_t>(state_->token_bytes);
}
uint64_t TokenDataset::num_tokens() const { return state_->num_tokens; }
int64_t TokenDataset::vocabulary() const { return state_->vocabulary; }
int64_t TokenDataset::end_of_document() const { return state_->end_of_document; }
std::string TokenDataset::tokenizer_json() const { return state_->tokenizer_json; }
std::string TokenDataset::fingerprint() const { return state_->fingerprint; }

void TokenDataset::copy(uint64_t begin, std::span<int64_t> out) const {
  OSP_CHECK(begin <= state_->num_tokens && out.size() <= state_->num_tokens - begin,
            "tokens {} to {} of {}", begin, begin + out.size(), state_->num_tokens);
  for (size_t number = shard_at(begin); !out.empty(); ++number) {
    const MappedShard& shard = state_->shards[number];
    const auto copy = shard.stored ? state_->open_stored(shard) : nullptr;
    if (!copy) shard.verify();
    const std::byte* ids = copy ? copy->bytes().data() : shard.ids();
    const uint64_t first = begin - shard.begin;
    const size_t count = std::min<uint64_t>(out.size(), shard.num_tokens - first);
    if (state_->token_bytes == 2) {
      copy_ids<uint16_t>(ids, first, out.first(count));
    } else {
      copy_ids<uint32_t>(ids, first, out.first(count));
    }
    out = out.subspan(count);
    begin += count;
  }
}

std::vector<int64_t> TokenDataset::first_tokens(uint64_t count) const {
  constexpr uint64_t kPiece = uint64_t{1} << 24;
  std::vector<int64_t> tokens(count == 0 ? num_tokens() : std::min(count, num_tokens()));
  for (uint64_t begin = 0; begin < tokens.size(); begin += kPiece) {
    if (begin > 0) leave_if_stopped("tokens were read");
    copy(begin, std::span(tokens).subspan(begin, std::min(kPiece, tokens.size() - begin)));
  }
  return tokens;
}

void TokenDataset::State::check_ids_of(const MappedShard& shard, const std::byte* ids,
                                       const std::string& where, int64_t vocabulary_size) const {
  const uint64_t bad = token_bytes == 2
                           ? first_bad_id<uint16_t>(ids, shard.num_tokens, vocabulary_size)
                           : first_bad_id<uint32_t>(ids, shard.num_tokens, vocabulary_size);
  if (bad == shard.num_tokens) return;
  const int64_t id = token_bytes == 2 ? load_id<uint16_t>(ids, bad) : load_id<uint32_t>(ids, bad);
  fail(ErrorCode::damaged,
       "{}: token {} (byte {}) has id {}, beyond the vocabulary of {}: wrong tokenizer or damaged "
       "file",
       where, bad, shard.header_bytes + bad * static_cast<uint64_t>(token_bytes), id,
       vocabulary_size);
}

void TokenDataset::check_ids(int64_t vocabulary) const {
  state_->id_limit = vocabulary;
  for (const MappedShard& shard : state_->shards) {
    if (shard.stored) continue;
    if (&shard != &state_->shards.front()) leave_if_stopped("the data was checked");
    state_->check_ids_of(shard, shard.ids(), shard.file ? shard.file->path() : "tokens in memory",
                         vocabulary);
    shard.verify();
  }
}

size_t TokenDataset::num_shards() const { return state_->shards.size(); }

size_t TokenDataset::shard_at(uint64_t token) const {
  const auto after = std::upper_bound(
      state_->shards.begin(), state_->shards.end(), token,
      [](uint64_t position, const MappedShard& shard) { return position < shard.begin; });
  return static_cast<size_t>(after - state_->shards.begin()) - 1;
}

uint64_t TokenDataset::shard_begin(size_t shard) const { return state_->shards[shard].begin; }

uint64_t TokenDataset::shard_bytes(size_t shard) const {
  return state_->shards[shard].num_tokens * static_cast<uint64_t>(state_->token_bytes);
}

void TokenDataset::fetch_shard(size_t shard) const {
  if (state_->shards[shard].stored) state_->open_stored(state_->shards[shard]);
}

bool TokenDataset::is_stored() const { return state_->store.has_value(); }

CacheOptions TokenDataset::cache_limit() const {
  return is_stored() ? state_->store->cache().options() : CacheOptions{};
}

StoredState TokenDataset::stored_state() const {
  StoredState found;
  if (!is_stored()) return found;
  for (size_t i = 0; i < num_shards(); ++i) {
    const uint64_t bytes = shard_bytes(i);
    const bool here = state_->store->is_here(*state_->shards[i].stored);
    found.shards += 1;
    found.num_bytes += bytes;
    found.shards_here += here ? 1 : 0;
    found.bytes_here += here ? bytes : 0;
  }
  return found;
}

bool names_token_shards(const std::string& path) {
  if (is_store_uri(path)) return !has_text_name(uri_without_query(path));
  return is_directory(path) || path.ends_with(".bin") || path.ends_with(kIndexFileName);
}

}  // namespace osp
