#include "osp/data/dataset.h"

#include <algorithm>
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

// One mapped file of ids, or ids in memory, and their place in the stream.
struct MappedShard {
  std::optional<MappedFile> file = {};
  size_t header_bytes = 0;
  std::vector<uint32_t> in_memory = {};  // where there is no file
  uint64_t begin = 0;
  uint64_t num_tokens = 0;
  std::string sha256 = {};  // "": not checked
  std::unique_ptr<std::once_flag> checked = std::make_unique<std::once_flag>();

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
  void open_folder(const std::string& folder, const std::string& split, bool verify);
  void open_bin(const std::string& path, const std::string& split);
};

void TokenDataset::State::open_folder(const std::string& folder, const std::string& split,
                                      bool verify) {
  // Find the split in the index.
  const std::string index_path = folder + "/" + kIndexFileName;
  const ShardIndex index = parse_shard_index(read_file(index_path, kMaxIndexBytes), index_path);
  const auto found = index.splits.find(split);
  if (found == index.splits.end()) {
    std::string names;
    for (const auto& [name, unused] : index.splits) names += (names.empty() ? "" : ", ") + name;
    fail(ErrorCode::usage,
         "{}: no split \"{}\"; it has: {} (see `osp tokenize --validation-fraction`)", index_path,
         split, printable(names, 200));
  }
  // Map the shards; their sizes must be those of the index.
  token_bytes = index.token_bytes;
  vocabulary = index.vocabulary;
  end_of_document = index.end_of_document;
  std::string signature =
      fmt::format("{} {} {} {}\n", split, token_bytes, vocabulary, end_of_document);
  for (const ShardEntry& entry : found->second.shards) {
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
    signature += entry.sha256 + "\n";
    add(std::move(shard));
  }
  fingerprint = sha256_hex(signature);
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
  if (is_directory(path) && path_exists(path + "/" + kIndexFileName)) {
    state->open_folder(path, split, verify);
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
  const auto after = std::upper_bound(
      state_->shards.begin(), state_->shards.end(), begin,
      [](uint64_t position, const MappedShard& shard) { return position < shard.begin; });
  for (auto shard = after - 1; !out.empty(); ++shard) {
    shard->verify();
    const uint64_t first = begin - shard->begin;
    const size_t count = std::min<uint64_t>(out.size(), shard->num_tokens - first);
    if (state_->token_bytes == 2) {
      copy_ids<uint16_t>(shard->ids(), first, out.first(count));
    } else {
      copy_ids<uint32_t>(shard->ids(), first, out.first(count));
    }
    out = out.subspan(count);
    begin += count;
  }
}

void TokenDataset::check_ids(int64_t vocabulary) const {
  for (const MappedShard& shard : state_->shards) {
    if (&shard != &state_->shards.front()) leave_if_stopped("the data was checked");
    const uint64_t bad = state_->token_bytes == 2
                             ? first_bad_id<uint16_t>(shard.ids(), shard.num_tokens, vocabulary)
                             : first_bad_id<uint32_t>(shard.ids(), shard.num_tokens, vocabulary);
    if (bad == shard.num_tokens) {
      shard.verify();
      continue;
    }
    const int64_t id = state_->token_bytes == 2 ? load_id<uint16_t>(shard.ids(), bad)
                                                : load_id<uint32_t>(shard.ids(), bad);
    fail(
        ErrorCode::damaged,
        "{}: token {} (byte {}) has id {}, beyond the vocabulary of {}: wrong tokenizer or damaged "
        "file",
        shard.file ? shard.file->path() : "tokens in memory", bad,
        shard.header_bytes + bad * static_cast<uint64_t>(state_->token_bytes), id, vocabulary);
  }
}

}  // namespace osp
