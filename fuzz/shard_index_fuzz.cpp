// Feeds arbitrary bytes to the reader of index.json. An accepted index must be unchanged after it
// is written and read again, name only files inside its folder, and have counts that add up.
#include <cstdint>
#include <string_view>

#include "osp/base/error.h"
#include "osp/data/shards.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  osp::ShardIndex index;
  try {
    index = osp::parse_shard_index({reinterpret_cast<const char*>(data), size}, "index.json");
  } catch (const osp::Error&) {
    return 0;
  }
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
