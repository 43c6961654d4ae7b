#include "osp/data/shards.h"

#include <algorithm>
#include <limits>
#include <set>

#include "osp/base/error.h"
#include "osp/base/printable.h"

namespace osp {
namespace {

constexpr const char* kFormatName = "osp-shards";
// A split may not claim more tokens than a signed 64-bit byte count can address.
constexpr uint64_t kMaxTokens = uint64_t{1} << 60;

const Json& member(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) fail(ErrorCode::damaged, "{}: key \"{}\" is missing", where, key);
  return *found;
}

const Json& object_member(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key, where);
  if (!value.is_object()) fail(ErrorCode::damaged, "{}: \"{}\" must be an object", where, key);
  return value;
}

const Json& array_member(const Json& object, const char* key, const std::string& where) {
  const Json& value = member(object, key, where);
  if (!value.is_array()) fail(ErrorCode::damaged, "{}: \"{}\" must be an array", where, key);
  return value;
}

uint64_t count_member(const Json& object, const char* key, const std::string& where) {
  const int64_t value = json_int(object, key, where);
  if (value < 0 || static_cast<uint64_t>(value) > kMaxTokens) {
    fail(ErrorCode::damaged, "{}: \"{}\" is {}; expected a count from 0 to 2^60", where, key,
         value);
  }
  return static_cast<uint64_t>(value);
}

// null is "no such token".
int64_t token_member(const Json& object, const char* key, int64_t vocabulary,
                     const std::string& where) {
  if (member(object, key, where).is_null()) return -1;
  const int64_t id = json_int(object, key, where);
  if (id < 0 || id >= vocabulary) {
    fail(ErrorCode::damaged, "{}: \"{}\" is {}, not a token of the vocabulary of {}", where, key,
         id, vocabulary);
  }
  return id;
}

std::string sha256_member(const Json& object, const char* key, const std::string& where) {
  const std::string digits = json_string(object, key, where);
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (digits.size() != 64 || !std::all_of(digits.begin(), digits.end(), is_hex)) {
    fail(ErrorCode::damaged, "{}: \"{}\" is not a SHA-256 of 64 lower-case hexadecimal digits",
         where, key);
  }
  return digits;
}

// The name is joined to the folder, so it must not be able to leave it.
std::string file_name_member(const Json& object, const std::string& where) {
  const std::string name = json_string(object, "file", where);
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
           c == '_' || c == '.';
  };
  if (name.empty() || name.size() > 255 || name[0] == '.' ||
      !std::all_of(name.begin(), name.end(), plain)) {
    fail(ErrorCode::damaged,
         "{}: \"file\" must be a plain file name (letters, digits, '-', '_', '.')", where);
  }
  return name;
}

LineCounts line_counts(const Json& object, const char* key, const std::string& where) {
  LineCounts counts;
  for (const auto& [reason, unused] : object_member(object, key, where).items()) {
    counts[reason] = count_member(object.at(key), reason.c_str(), where + ": " + key);
  }
  return counts;
}

SplitEntry parse_split(const Json& object, const std::string& where, std::set<std::string>& names) {
  if (!object.is_object()) fail(ErrorCode::damaged, "{}: must be an object", where);
  SplitEntry split;
  split.num_tokens = count_member(object, "tokens", where);
  split.num_documents = count_member(object, "documents", where);
  uint64_t sum = 0;
  for (const Json& item : array_member(object, "shards", where)) {
    const std::string place = fmt::format("{}: shard {}", where, split.shards.size());
    if (!item.is_object()) fail(ErrorCode::damaged, "{}: must be an object", place);
    ShardEntry shard;
    shard.file = file_name_member(item, place);
    if (!names.insert(shard.file).second) {
      fail(ErrorCode::damaged, "{}: file {} is listed twice", place, shard.file);
    }
    shard.num_tokens = count_member(item, "tokens", place);
    shard.sha256 = sha256_member(item, "sha256", place);
    sum += shard.num_tokens;
    if (sum > kMaxTokens) fail(ErrorCode::damaged, "{}: token counts add up beyond 2^60", place);
    split.shards.push_back(std::move(shard));
  }
  if (sum != split.num_tokens) {
    fail(ErrorCode::damaged, "{}: \"tokens\" is {} but the shards hold {}", where, split.num_tokens,
         sum);
  }
  return split;
}

Json token_or_null(int64_t id) { return id < 0 ? Json(nullptr) : Json(id); }

}  // namespace

int token_bytes_for(int64_t vocabulary) { return vocabulary <= 65536 ? 2 : 4; }

Json bad_lines_to_json(OnBadLine policy, const BadLines& lines) {
  return Json{
      {"policy", name_of(policy)}, {"skipped", lines.skipped}, {"repaired", lines.repaired}};
}

Json shard_index_to_json(const ShardIndex& index) {
  Json splits = Json::object();
  for (const auto& [name, split] : index.splits) {
    Json shards = Json::array();
    for (const ShardEntry& shard : split.shards) {
      shards.push_back(
          Json{{"file", shard.file}, {"tokens", shard.num_tokens}, {"sha256", shard.sha256}});
    }
    splits[name] = Json{{"tokens", split.num_tokens},
                        {"documents", split.num_documents},
                        {"shards", std::move(shards)}};
  }
  Json sources = Json::array();
  for (const SourceEntry& source : index.sources) {
    sources.push_back(Json{{"path", source.path},
                           {"documents", source.num_documents},
                           {"text_bytes", source.text_bytes}});
  }
  Json tokenizer = nullptr;
  if (!index.tokenizer_sha256.empty()) {
    tokenizer = Json{{"file", kTokenizerFileName}, {"sha256", index.tokenizer_sha256}};
  }
  return Json{{"format", kFormatName},
              {"version", kShardFormatVersion},
              {"dtype", index.token_bytes == 2 ? "u16" : "u32"},
              {"vocabulary", index.vocabulary},
              {"tokenizer", std::move(tokenizer)},
              {"begin_of_document", token_or_null(index.begin_of_document)},
              {"end_of_document", token_or_null(index.end_of_document)},
              {"document_policy", index.document_policy},
              {"validation_fraction", index.validation_fraction},
              {"shard_tokens", index.shard_tokens},
              {"bad_lines", bad_lines_to_json(index.on_bad_line, index.bad_lines)},
              {"splits", std::move(splits)},
              {"sources", std::move(sources)}};
}

ShardIndex parse_shard_index(std::string_view text, const std::string& where) {
  const Json root = parse_json(text, where);
  if (!root.is_object()) fail(ErrorCode::damaged, "{}: must be a JSON object", where);

  // Format and version.
  const std::string format = json_string(root, "format", where);
  if (format != kFormatName) {
    fail(ErrorCode::damaged, "{}: \"format\" is not \"{}\": this is no index of token shards",
         where, kFormatName);
  }
  const int64_t version = json_int(root, "version", where);
  if (version != kShardFormatVersion) {
    fail(ErrorCode::unsupported,
         "{}: format version {}; this program reads version {}: tokenize again", where, version,
         kShardFormatVersion);
  }

  // The type of the ids, and the vocabulary that it must hold.
  ShardIndex index;
  const std::string dtype = json_string(root, "dtype", where);
  if (dtype != "u16" && dtype != "u32") {
    fail(ErrorCode::damaged, "{}: \"dtype\" must be \"u16\" or \"u32\"", where);
  }
  index.token_bytes = dtype == "u16" ? 2 : 4;
  index.vocabulary = json_int(root, "vocabulary", where);
  const int64_t limit = index.token_bytes == 2 ? 65536 : std::numeric_limits<int32_t>::max();
  if (index.vocabulary < 1 || index.vocabulary > limit) {
    fail(ErrorCode::damaged, "{}: \"vocabulary\" is {}; expected 1 to {} with {}", where,
         index.vocabulary, limit, dtype);
  }

  // The settings of `osp tokenize`.
  if (!member(root, "tokenizer", where).is_null()) {
    const Json& tokenizer = object_member(root, "tokenizer", where);
    index.tokenizer_sha256 = sha256_member(tokenizer, "sha256", where + ": tokenizer");
  }
  index.begin_of_document = token_member(root, "begin_of_document", index.vocabulary, where);
  index.end_of_document = token_member(root, "end_of_document", index.vocabulary, where);
  index.document_policy = json_string(root, "document_policy", where);
  index.validation_fraction = json_number(root, "validation_fraction", where);
  index.shard_tokens = count_member(root, "shard_tokens", where);
  if (root.contains("bad_lines")) {  // sets of older programs have none
    const std::string place = where + ": bad_lines";
    const Json& lines = object_member(root, "bad_lines", where);
    index.on_bad_line = parse_on_bad_line(json_string(lines, "policy", place));
    index.bad_lines = {line_counts(lines, "skipped", place), line_counts(lines, "repaired", place)};
  }

  // The splits with their shards, and the files that the text came from.
  std::set<std::string> names;
  for (const auto& [name, split] : object_member(root, "splits", where).items()) {
    index.splits[name] =
        parse_split(split, fmt::format("{}: split {}", where, printable(name)), names);
  }
  for (const Json& item : array_member(root, "sources", where)) {
    const std::string place = fmt::format("{}: source {}", where, index.sources.size());
    if (!item.is_object()) fail(ErrorCode::damaged, "{}: must be an object", place);
    index.sources.push_back({.path = json_string(item, "path", place),
                             .num_documents = count_member(item, "documents", place),
                             .text_bytes = count_member(item, "text_bytes", place)});
  }
  return index;
}

}  // namespace osp
