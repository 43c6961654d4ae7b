// Which of many token sequences begin alike, so that their beginning is computed once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace osp {

using TokenSpan = std::span<const int32_t>;

// Sequences first … first + count − 1 of a sorted list, whose first `shared` tokens are the same. 0
// for a single sequence; always less than every sequence's length.
struct PrefixGroup {
  int64_t first = 0;
  int64_t count = 0;
  int64_t shared = 0;
};

// Indices of the sequences in lexicographic order, stable.
std::vector<int64_t> lexicographic_order(std::span<const TokenSpan> sequences);

// Takes sequences of a sorted list one by one. Neighbours form a group as long as this lets more
// tokens be shared.
class PrefixGrouper {
 public:
  // Takes the next sequence, of at least one token, and returns the tokens that it adds to the
  // pass: its own but for what is shared, more where it shortens what its group shares.
  int64_t add(TokenSpan sequence);
  // What add() would return.
  int64_t cost(TokenSpan sequence) const;
  const std::vector<PrefixGroup>& groups() const { return groups_; }

 private:
  // Tokens that the last group would share with this sequence in it; −1: a group of its own.
  int64_t shared_with(TokenSpan sequence) const;
  int64_t added(TokenSpan sequence, int64_t shared) const;

  std::vector<PrefixGroup> groups_;
  TokenSpan last_;
  int64_t shortest_ = 0;  // length in the last group
};

}  // namespace osp
