#include "osp/eval/prefix_groups.h"

#include <algorithm>
#include <numeric>

namespace osp {
namespace {

// Fewest shared tokens that are worth the calls of a segment of their own.
constexpr int64_t kWorthSharing = 8;

}  // namespace

int64_t common_length(TokenSpan x, TokenSpan y) {
  return std::mismatch(x.begin(), x.end(), y.begin(), y.end()).first - x.begin();
}

std::vector<int64_t> lexicographic_order(std::span<const TokenSpan> sequences) {
  std::vector<int64_t> order(sequences.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    const TokenSpan x = sequences[static_cast<size_t>(a)], y = sequences[static_cast<size_t>(b)];
    return std::lexicographical_compare(x.begin(), x.end(), y.begin(), y.end());
  });
  return order;
}

int64_t PrefixGrouper::shared_with(TokenSpan sequence) const {
  if (groups_.empty()) return -1;
  const PrefixGroup& group = groups_.back();
  const int64_t alike = common_length(last_, sequence);
  // At least one token of every sequence stays unshared: the last token of a context predicts.
  const int64_t length = std::min(shortest_, static_cast<int64_t>(sequence.size()));
  int64_t shared = std::min(alike, length - 1);
  if (group.count > 1) shared = std::min(shared, group.shared);
  const bool better = shared * group.count > group.shared * (group.count - 1);
  return shared >= kWorthSharing && better ? shared : -1;
}

int64_t PrefixGrouper::added(TokenSpan sequence, int64_t shared) const {
  const int64_t length = static_cast<int64_t>(sequence.size());
  if (shared < 0) return length;
  const PrefixGroup& group = groups_.back();
  return length - shared * group.count + group.shared * (group.count - 1);
}

int64_t PrefixGrouper::cost(TokenSpan sequence) const {
  return added(sequence, shared_with(sequence));
}

int64_t PrefixGrouper::add(TokenSpan sequence) {
  const int64_t shared = shared_with(sequence);
  const int64_t tokens = added(sequence, shared);
  const int64_t length = static_cast<int64_t>(sequence.size());
  if (shared < 0) {
    const int64_t first = groups_.empty() ? 0 : groups_.back().first + groups_.back().count;
    groups_.push_back({first, 1, 0});
    shortest_ = length;
  } else {
    groups_.back().count += 1;
    groups_.back().shared = shared;
    shortest_ = std::min(shortest_, length);
  }
  last_ = sequence;
  return tokens;
}

}  // namespace osp
