#include "osp/runtime/worker_pool.h"

#include <gtest/gtest.h>

#include <chrono>

namespace osp {
namespace {

TEST(WorkerPool, EveryItemIsDoneOnceInEveryPhase) {
  for (const int64_t threads : {1, 2, 5}) {
    WorkerPool pool(threads);
    for (int phase = 0; phase < 3000; ++phase) {
      const int64_t items = phase % 37;
      std::vector<std::atomic<int>> done(static_cast<size_t>(items));
      pool.run(items, [&](int64_t i) { ++done[static_cast<size_t>(i)]; });
      for (const auto& count : done) ASSERT_EQ(count, 1) << threads << ' ' << phase;
    }
  }
}

TEST(WorkerPool, PartsCoverTheWholeInNeighbours) {
  WorkerPool pool(3);
  for (const int64_t count : {0, 1, 2, 7, 12, 13, 1000}) {
    std::vector<std::atomic<int>> done(static_cast<size_t>(count));
    pool.split(count, [&](int64_t begin, int64_t end) {
      EXPECT_LT(begin, end);
      for (int64_t i = begin; i < end; ++i) ++done[static_cast<size_t>(i)];
    });
    for (const auto& times : done) EXPECT_EQ(times, 1) << count;
  }
}

TEST(WorkerPool, ThreadsThatSleptDoTheNextPhase) {
  WorkerPool pool(2);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> inside = 0;
    // Both items are in work at once only if the other thread wakes.
    pool.run(2, [&](int64_t) {
      ++inside;
      while (inside < 2) std::this_thread::yield();
    });
    EXPECT_EQ(inside, 2);
  }
}

}  // namespace
}  // namespace osp
