#include "osp/tokenizer/merges.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "osp/base/error.h"

namespace osp::tokenizer {
namespace {

constexpr size_t kMaxSymbols = std::numeric_limits<int32_t>::max();
constexpr Merge kNoMerge{std::numeric_limits<int32_t>::max(), -1};

Merge merge_of(const MergeTable& table, int32_t left, int32_t right) {
  const Merge* merge = table.find(left, right);
  return merge ? *merge : kNoMerge;
}

// A symbol of the word as a doubly linked list; -1 ends it. A symbol merged into its left neighbour
// has id -1.
struct Link {
  int32_t id;
  int32_t previous;
  int32_t next;
};

// A merge that was possible when it was queued.
struct Candidate {
  int32_t rank;
  int32_t position;                               // position of the left symbol
  int32_t id;                                     // id of the result
  bool operator<(const Candidate& other) const {  // std heaps keep the largest on top
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

void queue_pair(const MergeTable& table, const std::vector<Link>& links, int32_t left,
                std::vector<Candidate>& heap) {
  const int32_t right = links[left].next;
  if (right < 0) return;
  if (const Merge* merge = table.find(links[left].id, links[right].id)) {
    heap.push_back({merge->rank, left, merge->id});
    std::push_heap(heap.begin(), heap.end());
  }
}

}  // namespace

void MergeTable::reserve(size_t num_merges) {
  const size_t capacity = std::bit_ceil(2 * num_merges + 2);
  slots_.assign(capacity, Slot{});
  mask_ = capacity - 1;
  shift_ = 64 - std::countr_zero(capacity);
}

void MergeTable::insert(int32_t left, int32_t right, Merge merge) {
  const uint64_t key = key_of(left, right);
  size_t slot = slot_of(key);
  while (slots_[slot].key != kEmpty && slots_[slot].key != key) slot = (slot + 1) & mask_;
  slots_[slot] = {key, merge};
}

void merge_by_scan(const MergeTable& table, std::vector<int32_t>& symbols, size_t from) {
  if (symbols.size() - from < 2) return;
  thread_local std::vector<Merge> pairs;  // pairs[i]: merge of symbols from+i and from+i+1
  pairs.clear();
  for (size_t i = from; i + 1 < symbols.size(); ++i) {
    pairs.push_back(merge_of(table, symbols[i], symbols[i + 1]));
  }
  while (!pairs.empty()) {
    size_t best = 0;
    for (size_t i = 1; i < pairs.size(); ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].id < 0) return;
    int32_t* const left = symbols.data() + from + best;
    *left = pairs[best].id;
    symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(from + best + 1));
    pairs.erase(pairs.begin() + static_cast<ptrdiff_t>(best));
    if (best > 0) pairs[best - 1] = merge_of(table, left[-1], left[0]);
    if (best < pairs.size()) pairs[best] = merge_of(table, left[0], left[1]);
  }
}

void merge_by_queue(const MergeTable& table, std::vector<int32_t>& symbols, size_t from) {
  if (symbols.size() - from > kMaxSymbols) {
    fail(ErrorCode::unsupported,
         "a word of {} characters; at most {} are supported: cut the text into smaller documents",
         symbols.size() - from, kMaxSymbols);
  }
  const auto size = static_cast<int32_t>(symbols.size() - from);
  std::vector<Link> links(static_cast<size_t>(size));
  for (int32_t i = 0; i < size; ++i) {
    links[i] = {symbols[from + i], i - 1, i + 1 < size ? i + 1 : -1};
  }
  std::vector<Candidate> heap;
  for (int32_t i = 0; i + 1 < size; ++i) {
    if (const Merge* merge = table.find(links[i].id, links[i + 1].id)) {
      heap.push_back({merge->rank, i, merge->id});
    }
  }
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate top = heap.back();
    heap.pop_back();
    Link& left = links[top.position];
    if (left.id < 0 || left.next < 0) continue;
    Link& right = links[left.next];
    const Merge* now = table.find(left.id, right.id);
    if (now == nullptr || now->rank != top.rank) continue;  // queued before a neighbour changed
    left.id = top.id;
    right.id = -1;
    left.next = right.next;
    if (right.next >= 0) links[right.next].previous = top.position;
    if (left.previous >= 0) queue_pair(table, links, left.previous, heap);
    queue_pair(table, links, top.position, heap);
  }
  symbols.resize(from);
  for (int32_t i = 0; i >= 0 && size > 0; i = links[i].next) symbols.push_back(links[i].id);
}

}  // namespace osp::tokenizer
