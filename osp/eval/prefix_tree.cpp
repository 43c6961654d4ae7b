#include "osp/eval/prefix_tree.h"

#include <algorithm>

#include "osp/base/error.h"

namespace osp {
namespace {

// A common beginning is worth a node of its own if it saves this many tokens, and one more for so
// many that attend to it: each costs two calls of attention in every block, and of every query a
// merge of two results.
constexpr int64_t kFewestSaved = 4;
constexpr int64_t kQueriesPerSaved = 32;

class TreeBuilder {
 public:
  explicit TreeBuilder(std::span<const TokenSpan> sequences) : sequences_(sequences) {
    common_.push_back(0);
    for (size_t i = 1; i < sequences.size(); ++i) {
      common_.push_back(common_length(sequences[i - 1], sequences[i]));
    }
    tree_.last_node.resize(sequences.size(), -1);
  }

  PrefixTree build() {
    const auto count = static_cast<int64_t>(sequences_.size());
    if (count > 0) add(0, count, 0, -1);
    return std::move(tree_);
  }

 private:
  int64_t length(int64_t sequence) const {
    return static_cast<int64_t>(sequences_[static_cast<size_t>(sequence)].size());
  }
  int64_t common(int64_t sequence) const { return common_[static_cast<size_t>(sequence)]; }

  int64_t add_node(int64_t parent, int64_t sequence, int64_t begin, int64_t end) {
    tree_.nodes.push_back({parent, sequence, begin, end, tree_.tokens});
    tree_.tokens += end - begin;
    return static_cast<int64_t>(tree_.nodes.size()) - 1;
  }

  // Adds sequences first … last − 1, whose first `begin` tokens are those of `parent`'s path.
  void add(int64_t first, int64_t last, int64_t begin, int64_t parent) {
    // Find what all of them begin with, and the sequences that differ from their neighbours there.
    int64_t end = length(first);
    for (int64_t i = first + 1; i < last; ++i) end = std::min(end, common(i));
    std::vector<int64_t> branches = {first};
    int64_t below = length(first) - end;  // tokens behind the common ones, if each is read once
    for (int64_t i = first + 1; i < last; ++i) {
      // Equal sequences that end here are one branch.
      if (common(i) == end && length(i) > end) branches.push_back(i);
      below += length(i) - common(i);
    }
    branches.push_back(last);
    // Give the common tokens a node of their own if that is worth it, or if nothing follows.
    const auto num_branches = static_cast<int64_t>(branches.size()) - 1;
    const int64_t saved = (end - begin) * (num_branches - 1);
    const bool shared = saved >= kFewestSaved + below / kQueriesPerSaved;
    if (shared) {
      parent = add_node(parent, first, begin, end);
      begin = end;
    }
    // Add the branches behind it.
    for (int64_t b = 0; b < num_branches; ++b) {
      const int64_t from = branches[static_cast<size_t>(b)];
      const int64_t to = branches[static_cast<size_t>(b) + 1];
      const bool ends = length(from) == end;  // then all of the branch are equal
      if (!ends && to - from > 1) {
        add(from, to, begin, parent);
        continue;
      }
      const int64_t node =
          begin < length(from) ? add_node(parent, from, begin, length(from)) : parent;
      std::fill(tree_.last_node.begin() + from, tree_.last_node.begin() + to, node);
    }
  }

  std::span<const TokenSpan> sequences_;
  std::vector<int64_t> common_;  // with the sequence before
  PrefixTree tree_;
};

}  // namespace

int64_t PrefixTree::row(int64_t sequence, int64_t position) const {
  int64_t node = last_node[static_cast<size_t>(sequence)];
  while (nodes[static_cast<size_t>(node)].begin > position) {
    node = nodes[static_cast<size_t>(node)].parent;
  }
  return nodes[static_cast<size_t>(node)].row(position);
}

PrefixTree prefix_tree(std::span<const TokenSpan> sequences) {
  return TreeBuilder(sequences).build();
}

}  // namespace osp
