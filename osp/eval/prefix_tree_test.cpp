#include "osp/eval/prefix_tree.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "osp/base/philox.h"

namespace osp {
namespace {

using Tokens = std::vector<int32_t>;

std::vector<TokenSpan> spans_of_texts(const std::vector<Tokens>& texts) {
  return {texts.begin(), texts.end()};
}

// `count` tokens from `first` on.
Tokens run_of(int32_t first, int64_t count) {
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(first + static_cast<int32_t>(i));
  return tokens;
}

Tokens joined(Tokens left, const Tokens& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

// Every sequence's tokens stand at the rows that the tree names, on one path from a root.
void expect_holds(const PrefixTree& tree, const std::vector<TokenSpan>& texts) {
  Tokens rows;
  for (const PrefixTree::Node& node : tree.nodes) {
    ASSERT_EQ(node.first_row, static_cast<int64_t>(rows.size()));
    ASSERT_LT(node.begin, node.end);
    const TokenSpan text = texts[static_cast<size_t>(node.sequence)];
    rows.insert(rows.end(), text.begin() + node.begin, text.begin() + node.end);
    const auto index = static_cast<int64_t>(&node - tree.nodes.data());
    ASSERT_LT(node.parent, index);
    ASSERT_EQ(node.begin, node.parent < 0 ? 0 : tree.nodes[static_cast<size_t>(node.parent)].end);
  }
  ASSERT_EQ(tree.tokens, static_cast<int64_t>(rows.size()));
  for (size_t s = 0; s < texts.size(); ++s) {
    const auto sequence = static_cast<int64_t>(s);
    ASSERT_EQ(tree.nodes[static_cast<size_t>(tree.last_node[s])].end,
              static_cast<int64_t>(texts[s].size()));
    for (int64_t i = 0; i < static_cast<int64_t>(texts[s].size()); ++i) {
      ASSERT_EQ(rows[static_cast<size_t>(tree.row(sequence, i))], texts[s][static_cast<size_t>(i)]);
    }
  }
}

TEST(PrefixTree, BeginningsOfBeginningsStandOnce) {
  const Tokens shots = run_of(0, 20), question = joined(shots, run_of(100, 10));
  std::vector<Tokens> texts = {joined(question, run_of(200, 7)),
                               joined(joined(question, run_of(200, 5)), run_of(300, 6)),
                               joined(shots, run_of(400, 9)), run_of(500, 3)};
  const auto spans = spans_of_texts(texts);
  const PrefixTree tree = prefix_tree(spans);
  expect_holds(tree, spans);
  // Shots; the question with the five tokens that both choices begin with, and the rest of each;
  // the other question; the text that shares nothing.
  EXPECT_EQ(tree.nodes.size(), 6u);
  EXPECT_EQ(tree.tokens, 20 + 15 + 2 + 6 + 9 + 3);
}

TEST(PrefixTree, EqualTextsAndTextsThatEndInsideOthersHaveNoTokensOfTheirOwn) {
  const std::vector<Tokens> texts = {run_of(0, 8), run_of(0, 8), run_of(0, 8), run_of(0, 12),
                                     run_of(0, 12)};
  const auto spans = spans_of_texts(texts);
  const PrefixTree tree = prefix_tree(spans);
  expect_holds(tree, spans);
  EXPECT_EQ(tree.tokens, 12);
  EXPECT_EQ(prefix_tree({}).tokens, 0);
  EXPECT_EQ(prefix_tree(std::span(spans).first(3)).nodes.size(), 1u);
}

TEST(PrefixTree, BeginningsThatAreTooShortStandInEachText) {
  const std::vector<Tokens> texts = {{1, 2, 3, 4, 5}, {1, 2, 6, 7, 8}};
  const PrefixTree tree = prefix_tree(spans_of_texts(texts));
  EXPECT_EQ(tree.nodes.size(), 2u);
  EXPECT_EQ(tree.tokens, 10);
}

TEST(PrefixTree, HoldsAThousandRandomTextsOfFewKindsOfTokens) {
  const RandomStream random(5, "tree");
  std::vector<Tokens> texts(1000);
  uint64_t counter = 0;
  int64_t tokens = 0;
  for (Tokens& text : texts) {
    const uint64_t length = 1 + random.below(counter++, 40);
    for (uint64_t i = 0; i < length; ++i) {
      text.push_back(static_cast<int32_t>(random.uniform(counter++) > 0.9));
    }
    tokens += static_cast<int64_t>(length);
  }
  std::ranges::sort(texts);
  const auto spans = spans_of_texts(texts);
  const PrefixTree tree = prefix_tree(spans);
  expect_holds(tree, spans);
  EXPECT_LT(tree.tokens, tokens / 2);
}

}  // namespace
}  // namespace osp
