// Groups of token sequences that begin alike, so that their common beginning is computed once: for
// generation, whose texts grow (osp/eval/prefix_tree.h for texts that are only read).
// Tested by request_generator_test.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace osp {

using TokenSpan = std::span<const int32_t>;

// Number of tokens that two sequences begin with in common.
int64_t common_length(TokenSpan x, TokenSpan y);

// Sequences first … first + count − 1 of a sorted list, whose first `shared` tokens are the same.
// `shared` is 0 for a single sequence, and always less than every sequence's length.
struct PrefixGroup {
  int64_t first = 0;
  int64_t count = 0;
  int64_t shared = 0;
};

// Indices of the sequences in lexicographic order, stable.
std::vector<int64_t> lexicographic_order(std::span<const TokenSpan> sequences);

// Groups the sequences of a sorted list, one by one. A neighbour joins the last group where this
// shares more tokens in total.
class PrefixGrouper {
 public:
  // Takes the next sequence, of at least one token, and returns the number of tokens that it adds
  // to the pass: its own without the shared ones, more where it shortens its group's shared
  // beginning.
  int64_t add(TokenSpan sequence);
  // The number that add() would return.
  int64_t cost(TokenSpan sequence) const;
  const std::vector<PrefixGroup>& groups() const { return groups_; }

 private:
  // Tokens that the last group would share with this sequence in it; −1: start a new group.
  int64_t shared_with(TokenSpan sequence) const;
  int64_t added(TokenSpan sequence, int64_t shared) const;

  std::vector<PrefixGroup> groups_;
  TokenSpan last_;
  int64_t shortest_ = 0;  // length of the shortest sequence in the last group
};

}  // namespace osp
