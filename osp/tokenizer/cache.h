// A per-thread cache from short words to their ids: text repeats its words, and a hit costs one
// cache line. Direct-mapped and of fixed size (2 MiB), so it needs no eviction.
//
// Tested by osp/tokenizer/tokenizer_test.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace osp::tokenizer {

class WordCache {
 public:
  static constexpr size_t kMaxWordBytes = 24;
  static constexpr size_t kMaxIds = 9;

  struct alignas(64) Entry {
    uint64_t word[3];
    int32_t ids[kMaxIds];
    uint8_t num_bytes;
    uint8_t num_ids;
  };
  static_assert(sizeof(Entry) == 64);

  // This thread's cache, emptied if another tokenizer used it last. `owner` identifies the
  // tokenizer and is never 0.
  static WordCache& of_thread(uint64_t owner) {
    thread_local WordCache cache;
    if (cache.owner_ != owner) {
      cache.entries_.assign(kNumEntries, Entry{});
      cache.owner_ = owner;
    }
    return cache;
  }

  // The entry where `word` (1 to kMaxWordBytes bytes) belongs; *hit tells whether it is there. On a
  // miss the entry's key is set already, and the caller fills in the ids or sets num_bytes to 0.
  Entry& look_up(std::string_view word, bool* hit) {
    uint64_t key[3] = {0, 0, 0};
    std::memcpy(key, word.data(), word.size());
    const uint64_t mixed = (key[0] ^ word.size()) * 0x9E3779B97F4A7C15u ^
                           key[1] * 0xC2B2AE3D27D4EB4Fu ^ key[2] * 0x165667B19E3779F9u;
    Entry& entry = entries_[(mixed ^ mixed >> 32) * 0xD6E8FEB86659FD93u >> kShift];
    *hit = entry.num_bytes == word.size() && std::memcmp(entry.word, key, sizeof(key)) == 0;
    if (!*hit) {
      std::memcpy(entry.word, key, sizeof(key));
      entry.num_bytes = static_cast<uint8_t>(word.size());
    }
    return entry;
  }

 private:
  static constexpr size_t kNumEntries = size_t{1} << 15;
  static constexpr int kShift = 64 - 15;
  std::vector<Entry> entries_;
  uint64_t owner_ = 0;
};

}  // namespace osp::tokenizer
