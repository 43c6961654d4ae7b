// Merges of BPE: the table from a pair of symbols to its rank, and the two ways to apply it.
//
// Tested by osp/tokenizer/bpe_test.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace osp::tokenizer {

// The result of merging a pair of symbols; lower ranks go first.
struct Merge {
  int32_t rank;
  int32_t id;
};

// A flat hash table with linear probing, at most half full.
class MergeTable {
 public:
  void reserve(size_t num_merges);
  void insert(int32_t left, int32_t right, Merge merge);  // a later one replaces an earlier one

  // nullptr if the pair does not merge.
  const Merge* find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t slot = slot_of(key);; slot = (slot + 1) & mask_) {
      if (slots_[slot].key == key) return &slots_[slot].merge;
      if (slots_[slot].key == kEmpty) return nullptr;
    }
  }

 private:
  static constexpr uint64_t kEmpty = ~uint64_t{0};  // ids are not negative
  struct Slot {
    uint64_t key = kEmpty;
    Merge merge{};
  };
  static uint64_t key_of(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const {
    return static_cast<size_t>((key * 0x9E3779B97F4A7C15u) >> shift_) & mask_;
  }

  std::vector<Slot> slots_ = std::vector<Slot>(2);
  size_t mask_ = 1;
  int shift_ = 63;
};

// Merges symbols[from..] in place until no pair is left in the table. Both give equal symbols:
// merge_by_scan looks through all pairs for every merge, O(n²), and is best for short words;
// merge_by_queue keeps a priority queue over a linked list, O(n log n), and is an
// Error(unsupported) from 2^31 symbols on.
void merge_by_scan(const MergeTable& table, std::vector<int32_t>& symbols, size_t from);
void merge_by_queue(const MergeTable& table, std::vector<int32_t>& symbols, size_t from);

}  // namespace osp::tokenizer
