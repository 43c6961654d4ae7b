// Feeds arbitrary bytes to the reader of index.json. An accepted index must be unchanged after it
// is written and read again, name only files inside its folder, and have counts that add up.
#include <cstdint>
#include <string>
#include <string_view>

#include "fuzz/accepted.h"
#include "fuzz/json_mutator.h"
#include "osp/base/error.h"
#include "osp/data/shards.h"

namespace {

using osp::fuzz::Tree;

constexpr const char* kKeys[] = {"format",
                                 "osp-shards",
                                 "version",
                                 "dtype",
                                 "u16",
                                 "u32",
                                 "vocabulary",
                                 "tokenizer",
                                 "sha256",
                                 "begin_of_document",
                                 "end_of_document",
                                 "document_policy",
                                 "validation_fraction",
                                 "shard_tokens",
                                 "bad_lines",
                                 "policy",
                                 "skip",
                                 "repair",
                                 "skipped",
                                 "repaired",
                                 "splits",
                                 "train",
                                 "validation",
                                 "tokens",
                                 "documents",
                                 "shards",
                                 "file",
                                 "sources",
                                 "path",
                                 "text_bytes"};

// An index that is accepted; null for members of more than one type.
const Tree& good_index() {
  static const Tree index = Tree::parse(R"({"format": "osp-shards", "version": 1, "dtype": "u16",
      "vocabulary": 300, "tokenizer": null, "begin_of_document": null, "end_of_document": null,
      "document_policy": "entries", "validation_fraction": 0.5, "shard_tokens": 4,
      "splits": {"train": {"tokens": 3, "documents": 1, "shards": [{"file": "train-00000.u16",
          "tokens": 3, "sha256": ")" + std::string(64, 'a') +
                                        R"("}]}},
      "sources": [{"path": "a", "documents": 2, "text_bytes": 9}]})");
  return index;
}

// Gives the value the members of `good` that it lacks or has with another type.
void restore(Tree& value, const Tree& good) {
  if (good.is_null()) return;
  if (value.type() != good.type()) value = good;
  for (const auto& [key, member] : good.items()) {
    if (good.is_object()) restore(value[key], member);
  }
  if (!good.is_array()) return;
  for (Tree& element : value) restore(element, good[0]);
}

// Mostly lets the members be there again, and the counts of a split be those of its shards.
void mend(Tree& index, osp::fuzz::Dice& dice) {
  if (dice.one_in(8)) return;
  restore(index, good_index());
  for (auto& [name, split] : index["splits"].items()) {
    restore(split, good_index()["splits"]["train"]);
    uint64_t tokens = 0;
    for (const Tree& shard : split["shards"]) tokens += shard["tokens"].get<uint64_t>();
    split["tokens"] = tokens;
  }
}

}  // namespace

OSP_MUTATOR([](std::string_view text, osp::fuzz::Dice& dice) {
  return osp::fuzz::mutated_json(text, dice, kKeys, [&](Tree& index) { mend(index, dice); });
})

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::ShardIndex index;
  try {
    index = osp::parse_shard_index({reinterpret_cast<const char*>(data), size}, "index.json");
  } catch (const osp::Error&) {
    return 0;
  }
  osp::fuzz::accepted(data, size);
  for (const auto& [name, split] : index.splits) {
    uint64_t sum = 0;
    for (const osp::ShardEntry& shard : split.shards) {
      OSP_CHECK(shard.file.find('/') == std::string::npos && shard.file[0] != '.', "a path");
      sum += shard.num_tokens;
    }
    OSP_CHECK(sum == split.num_tokens, "counts of {}", name);
  }
  const osp::Json json = osp::shard_index_to_json(index);
  const osp::ShardIndex again = osp::parse_shard_index(json.dump(), "again");
  OSP_CHECK(osp::shard_index_to_json(again) == json, "the index changed on its way");
  return 0;
}
