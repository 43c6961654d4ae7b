// Token sequences as a tree: what they begin with in common stands once, before the parts in which
// they differ.
//
// A node is a run of tokens that continues its parent; a sequence is the tokens on the path from a
// root to its last node. A common beginning becomes a node where it saves more tokens than
// attention over one more range of keys costs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "osp/eval/prefix_groups.h"

namespace osp {

struct PrefixTree {
  struct Node {
    int64_t parent = -1;   // index of the node before; −1: none
    int64_t sequence = 0;  // one that has these tokens
    int64_t begin = 0;     // their positions in it
    int64_t end = 0;
    int64_t first_row = 0;  // their places in the list of all nodes' tokens
    int64_t row(int64_t position) const { return first_row + position - begin; }
  };
  std::vector<Node> nodes;         // parents first, every node before its descendants
  std::vector<int64_t> last_node;  // by sequence: the node of its last token
  int64_t tokens = 0;              // of all nodes

  // The row of a sequence's token.
  int64_t row(int64_t sequence, int64_t position) const;
};

// The tree of sequences in lexicographic order, each of at least one token.
PrefixTree prefix_tree(std::span<const TokenSpan> sequences);

}  // namespace osp
