// Writes a shard set: token ids in, a complete folder out, or nothing.
//
// Tested by osp/data/shards_build_test.cpp and osp/data/dataset_test.cpp.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "osp/base/file.h"
#include "osp/base/sha256.h"
#include "osp/data/shards.h"

namespace osp {

struct ShardSetOptions {
  int64_t vocabulary = 0;
  int64_t begin_of_document = -1;  // recorded; the caller puts the tokens into the stream
  int64_t end_of_document = -1;
  uint64_t shard_tokens = 100'000'000;  // tokens per file; the last of a split is shorter
  std::string tokenizer_json = {};      // "" if there is none
  std::string document_policy = "none";
  double validation_fraction = 0;
  OnBadLine on_bad_line = OnBadLine::stop;
  bool overwrite = false;  // replace an existing shard set (never another kind of folder)
};

// Error(usage) if a shard set may not be written at `out` (something exists there and is not a
// shard set to be overwritten). Called by the writer; call it before work that takes long.
void check_shard_destination(const std::string& out, bool overwrite);

// Collects the ids of each split into `out`.tmp-<pid> and renames the folder to `out` at commit().
// Without commit() the temporary folder is removed. Bytes depend only on the calls, so equal input
// gives equal files. Not thread-safe.
class ShardSetWriter {
 public:
  ShardSetWriter(const std::string& out, const ShardSetOptions& options);
  ~ShardSetWriter();
  ShardSetWriter(const ShardSetWriter&) = delete;
  ShardSetWriter& operator=(const ShardSetWriter&) = delete;

  // Appends ids to split "train" or "validation"; `num_documents` of them end in this call.
  void append(const std::string& split, std::span<const int32_t> ids, uint64_t num_documents);
  void add_bad_lines(const BadLines& lines);
  void add_source(SourceEntry source);
  // Closes the shards, writes index.json and tokenizer.json, syncs, renames. Call once.
  ShardIndex commit();

 private:
  struct OpenShard {
    std::unique_ptr<FileWriter> file;
    Sha256 hash;
    ShardEntry entry;
  };
  void open_shard(const std::string& split);
  void close_shard(const std::string& split);

  std::string out_;
  std::string folder_;
  ShardSetOptions options_;
  ShardIndex index_;
  std::map<std::string, OpenShard> open_;
  std::vector<unsigned char> buffer_;
  bool committed_ = false;
};

}  // namespace osp
