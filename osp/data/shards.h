// Token shards on disk: the content of index.json, and its strict reader.
//
// A shard set is a folder: index.json, tokenizer.json, and per split the files train-00000.u16,
// train-00001.u16, …, validation-00000.u16 (or .u32). A shard is nothing but little-endian token
// ids; the shards of a split in the order of the index are one long stream. See "Token shards" in
// docs/formats.md.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "osp/base/json.h"
#include "osp/data/json_line.h"

namespace osp {

inline constexpr int64_t kShardFormatVersion = 1;
inline constexpr const char* kIndexFileName = "index.json";
inline constexpr const char* kTokenizerFileName = "tokenizer.json";

// One file of ids.
struct ShardEntry {
  std::string file;  // a plain name inside the folder, never a path
  uint64_t num_tokens = 0;
  std::string sha256;
};

// All of one split.
struct SplitEntry {
  uint64_t num_tokens = 0;
  uint64_t num_documents = 0;
  std::vector<ShardEntry> shards;
};

// One input file, for the record.
struct SourceEntry {
  std::string path;
  uint64_t num_documents = 0;
  uint64_t text_bytes = 0;
};

// Everything that index.json says.
struct ShardIndex {
  int token_bytes = 2;  // 2: u16, 4: u32
  int64_t vocabulary = 0;
  int64_t begin_of_document = -1;  // -1: none
  int64_t end_of_document = -1;
  std::string tokenizer_sha256;  // "" if the set has no tokenizer
  std::string document_policy;
  double validation_fraction = 0;
  uint64_t shard_tokens = 0;
  OnBadLine on_bad_line = OnBadLine::stop;
  BadLines bad_lines;  // of JSON lines
  std::map<std::string, SplitEntry> splits;
  std::vector<SourceEntry> sources;
};

// 2 where ids below `vocabulary` fit into 16 bits, else 4.
int token_bytes_for(int64_t vocabulary);

Json shard_index_to_json(const ShardIndex& index);
// {"policy", "skipped": {reason: lines}, "repaired": {reason: lines}}.
Json bad_lines_to_json(OnBadLine policy, const BadLines& lines);

// Parses and checks index.json's text: Error(damaged) that begins with `where` and names the key,
// or Error(unsupported) for another format version. Touches no other file.
ShardIndex parse_shard_index(std::string_view text, const std::string& where);

}  // namespace osp
