#include "osp/data/shards_writer.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/json_text.h"

namespace osp {
namespace {

std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string parent_folder(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

void check_shard_destination(const std::string& out, bool overwrite) {
  if (out.empty()) fail(ErrorCode::usage, "the output folder has an empty name");
  if (!path_exists(out)) return;
  if (!is_directory(out)) {
    fail(ErrorCode::usage, "{} exists and is not a folder: choose another --out", out);
  }
  std::error_code ignored;
  if (std::filesystem::is_empty(out, ignored)) return;
  if (!path_exists(out + "/" + kIndexFileName)) {
    fail(ErrorCode::usage, "{} is a folder that holds no token shards: choose another --out", out);
  }
  if (!overwrite) {
    fail(ErrorCode::usage,
         "{} already holds token shards: choose another --out or pass --overwrite", out);
  }
}

ShardSetWriter::ShardSetWriter(const std::string& out, const ShardSetOptions& options)
    : out_(without_trailing_slashes(out)), options_(options) {
  OSP_CHECK(options.vocabulary > 0 && options.shard_tokens > 0, "vocabulary {} shard_tokens {}",
            options.vocabulary, options.shard_tokens);
  check_shard_destination(out_, options.overwrite);
  folder_ = fmt::format("{}.tmp-{}", out_, getpid());
  make_directories(parent_folder(out_));
  remove_tree(folder_);
  make_directories(folder_);
  index_ = {
      .token_bytes = token_bytes_for(options.vocabulary),
      .vocabulary = options.vocabulary,
      .begin_of_document = options.begin_of_document,
      .end_of_document = options.end_of_document,
      .tokenizer_sha256 = options.tokenizer_json.empty() ? "" : sha256_hex(options.tokenizer_json),
      .document_policy = options.document_policy,
      .validation_fraction = options.validation_fraction,
      .shard_tokens = options.shard_tokens,
      .on_bad_line = options.on_bad_line,
      .bad_lines = {},
      .splits = {{"train", {}}},
      .sources = {}};
}

ShardSetWriter::~ShardSetWriter() {
  open_.clear();
  if (committed_) return;
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

void ShardSetWriter::open_shard(const std::string& split) {
  OpenShard shard;
  shard.entry.file = fmt::format("{}-{:05}.{}", split, index_.splits[split].shards.size(),
                                 index_.token_bytes == 2 ? "u16" : "u32");
  shard.file = std::make_unique<FileWriter>(folder_ + "/" + shard.entry.file);
  open_[split] = std::move(shard);
}

void ShardSetWriter::close_shard(const std::string& split) {
  // The node keeps the name alive, of which `split` may be a reference.
  auto node = open_.extract(split);
  OpenShard& shard = node.mapped();
  shard.file->close();
  shard.entry.sha256 = shard.hash.hex();
  index_.splits[node.key()].shards.push_back(std::move(shard.entry));
}

void ShardSetWriter::append(const std::string& split, std::span<const int32_t> ids,
                            uint64_t num_documents) {
  SplitEntry& entry = index_.splits[split];
  entry.num_documents += num_documents;
  entry.num_tokens += ids.size();
  const auto width = static_cast<size_t>(index_.token_bytes);
  while (!ids.empty()) {
    if (!open_.contains(split)) open_shard(split);
    OpenShard& shard = open_.at(split);
    const size_t count =
        std::min<uint64_t>({ids.size(), options_.shard_tokens - shard.entry.num_tokens, 1 << 20});
    buffer_.resize(count * width);
    for (size_t i = 0; i < count; ++i) {
      const int32_t id = ids[i];
      OSP_CHECK(id >= 0 && id < options_.vocabulary, "id {} of a vocabulary of {}", id,
                options_.vocabulary);
      for (size_t b = 0; b < width; ++b) {
        buffer_[i * width + b] = static_cast<unsigned char>(static_cast<uint32_t>(id) >> (8 * b));
      }
    }
    shard.hash.update(buffer_.data(), buffer_.size());
    shard.file->write(buffer_.data(), buffer_.size());
    shard.entry.num_tokens += count;
    ids = ids.subspan(count);
    if (shard.entry.num_tokens == options_.shard_tokens) close_shard(split);
  }
}

void ShardSetWriter::add_bad_lines(const BadLines& lines) { index_.bad_lines.add(lines); }

void ShardSetWriter::add_source(SourceEntry source) { index_.sources.push_back(std::move(source)); }

ShardIndex ShardSetWriter::commit() {
  OSP_CHECK(!committed_, "committed twice");
  while (!open_.empty()) close_shard(open_.begin()->first);
  if (!options_.tokenizer_json.empty()) {
    write_file_atomic(folder_ + "/" + kTokenizerFileName, options_.tokenizer_json);
  }
  write_file_atomic(folder_ + "/" + kIndexFileName,
                    json_text(shard_index_to_json(index_), 1) + "\n");
  fsync_directory(folder_);
  // The destination may have changed while we worked.
  check_shard_destination(out_, options_.overwrite);
  const std::string old = fmt::format("{}.old-{}", out_, getpid());
  const bool replaces = path_exists(out_);
  if (replaces) rename_path(out_, old);
  try {
    rename_path(folder_, out_);
  } catch (const Error&) {
    if (replaces) rename_path(old, out_);
    throw;
  }
  committed_ = true;
  fsync_directory(parent_folder(out_));
  if (replaces) remove_tree(old);
  return index_;
}

}  // namespace osp
