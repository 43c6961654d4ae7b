// Batches: the order of windows, documents and their boundaries, data that is too short.
#include "osp/data/batch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/data/shards_writer.h"
#include "osp/data/test_shards.h"

namespace osp {
namespace {

TEST(ReadBatch, AnEpochVisitsEveryWindowOnceInAnotherOrderThanTheNext) {
  TestFolder folder;
  // 103 tokens: windows of context 5 begin at 0, 5, …, 95 (20 windows); 101 and 102 stay unvisited.
  const TokenDataset data = TokenDataset::open(write_set(folder, "set", 200, 103, 10), "train");
  ASSERT_EQ(num_windows(data, 5), 20u);
  const BatchPlan plan{
      .seed = 7, .context = 5, .sequences_per_step = 3};  // epochs end inside steps
  std::vector<int64_t> visits;
  for (int64_t step = 0; step < 20; ++step) {
    const Batch batch = read_batch(data, plan, step, 0, 3, false);
    for (size_t row = 0; row < 3; ++row) {
      const int64_t begin = batch.tokens[row * 5];
      visits.push_back(begin);
      for (size_t t = 0; t < 5; ++t) {
        EXPECT_EQ(batch.tokens[row * 5 + t], begin + static_cast<int64_t>(t));
        EXPECT_EQ(batch.targets[row * 5 + t], begin + static_cast<int64_t>(t) + 1);
      }
    }
  }
  std::vector<std::vector<int64_t>> epochs;
  for (size_t epoch = 0; epoch < 3; ++epoch) {
    epochs.emplace_back(visits.begin() + epoch * 20, visits.begin() + (epoch + 1) * 20);
    std::vector<int64_t> sorted = epochs.back();
    std::sort(sorted.begin(), sorted.end());
    for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(sorted[i], 5 * i);
    EXPECT_FALSE(std::is_sorted(epochs.back().begin(), epochs.back().end()));
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
}

TEST(ReadBatch, AnEpochInBlocksFinishesOneBlockBeforeTheNext) {
  TestFolder folder;
  const TokenDataset data = TokenDataset::open(write_set(folder, "set", 200, 103, 10), "train");
  const Mixture mixture(data);
  // 20 windows of 5 tokens: six blocks of three, and two windows behind them.
  const BatchPlan plan{.seed = 7, .context = 5, .sequences_per_step = 4, .block_windows = 3};
  std::vector<std::vector<uint64_t>> epochs(3);
  for (uint64_t visit = 0; visit < 60; ++visit) {
    const WindowPlace place = window_place(mixture, plan, static_cast<int64_t>(visit / 4),
                                           static_cast<int64_t>(visit % 4));
    EXPECT_EQ(read_batch(mixture, plan, static_cast<int64_t>(visit / 4),
                         static_cast<int64_t>(visit % 4), 1, false)
                  .tokens[0],
              static_cast<int64_t>(place.begin));
    epochs[visit / 20].push_back(place.begin / 5);
  }
  std::vector<std::vector<uint64_t>> orders;
  bool any_unsorted = false;
  for (const std::vector<uint64_t>& epoch : epochs) {
    std::vector<uint64_t> sorted = epoch, order;
    std::sort(sorted.begin(), sorted.end());
    for (uint64_t i = 0; i < 20; ++i) EXPECT_EQ(sorted[i], i);
    for (size_t visit = 0; visit < 20; ++visit) {
      if (visit % 3 == 0) order.push_back(epoch[visit] / 3);
      EXPECT_EQ(epoch[visit] / 3, order.back()) << "visit " << visit;
      if (visit % 3 != 0) any_unsorted = any_unsorted || epoch[visit] < epoch[visit - 1];
    }
    EXPECT_EQ(order.back(), 6u);  // the windows behind the last whole block
    EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
    orders.push_back(order);
  }
  EXPECT_TRUE(any_unsorted);
  EXPECT_NE(orders[0], orders[1]);
  // A block of everything is the order without blocks.
  BatchPlan one = plan, all = plan;
  one.block_windows = 0;
  all.block_windows = 20;
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(window_place(mixture, one, 6, i).begin, window_place(mixture, all, 6, i).begin);
  }
}

TEST(ReadBatch, IsAPureFunctionThatDoesNotDependOnHowAStepIsCut) {
  TestFolder folder;
  const std::string path = write_set(folder, "set", 200, 103, 10);
  const BatchPlan plan{.seed = 1, .context = 4, .sequences_per_step = 6};
  const TokenDataset data = TokenDataset::open(path, "train");
  const Batch whole = read_batch(data, plan, 5, 0, 6, false);
  const TokenDataset again = TokenDataset::open(path, "train");
  Batch joined;
  for (int64_t first = 0; first < 6; first += 2) {
    const Batch part = read_batch(again, plan, 5, first, 2, false);
    joined.tokens.insert(joined.tokens.end(), part.tokens.begin(), part.tokens.end());
    joined.targets.insert(joined.targets.end(), part.targets.begin(), part.targets.end());
  }
  EXPECT_EQ(whole.tokens, joined.tokens);
  EXPECT_EQ(whole.targets, joined.targets);
  BatchPlan other = plan;
  other.seed = 2;
  EXPECT_NE(whole.tokens, read_batch(data, other, 5, 0, 6, false).tokens);
}

TEST(ReadBatch, DocumentsAreNumberedAndTheirBoundariesNotScored) {
  TestFolder folder;
  ShardSetWriter writer(folder / "set", {.vocabulary = 10, .end_of_document = 9});
  const std::vector<int32_t> ids = {1, 2, 9, 3, 9, 9, 4, 5, 6};
  writer.append("train", ids, 3);
  writer.commit();
  const TokenDataset data = TokenDataset::open(folder / "set", "train");
  const BatchPlan plan{.seed = 0, .context = 8, .sequences_per_step = 1};
  const Batch batch = read_batch(data, plan, 0, 0, 1, true);
  EXPECT_EQ(batch.tokens, (std::vector<int64_t>{1, 2, 9, 3, 9, 9, 4, 5}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{2, 9, -1, 9, -1, -1, 5, 6}));
  EXPECT_EQ(batch.documents, (std::vector<int32_t>{0, 0, 0, 1, 1, 2, 3, 3}));
  const Batch plain = read_batch(data, plan, 0, 0, 1, false);
  EXPECT_EQ(plain.targets, (std::vector<int64_t>{2, 9, 3, 9, 9, 4, 5, 6}));
  EXPECT_TRUE(plain.documents.empty());
}

TEST(ReadBatch, TooLittleDataAndMissingBoundariesAreErrors) {
  TestFolder folder;
  const TokenDataset data = TokenDataset::open(write_set(folder, "set", 200, 5, 10), "train");
  expect_error(ErrorCode::usage, {"5 tokens", "sequence of 5"},
               [&] { read_batch(data, {.context = 5, .sequences_per_step = 1}, 0, 0, 1, false); });
  expect_error(ErrorCode::usage, {"document_mask"},
               [&] { read_batch(data, {.context = 4, .sequences_per_step = 1}, 0, 0, 1, true); });
}

}  // namespace
}  // namespace osp
