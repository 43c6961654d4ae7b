#include "osp/data/document_pipeline.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <string>

namespace osp {
namespace {

using Pipeline = OrderedPipeline<int, int>;

std::vector<int> doubled_in_order(int count, int num_workers, size_t max_in_flight) {
  std::vector<int> results;
  Pipeline(
      {.num_workers = num_workers, .max_in_flight = max_in_flight},
      [&](const Pipeline::Push& push) {
        for (int i = 0; i < count; ++i) push(i);
      },
      [](int item) {
        // Uneven work, so that workers overtake each other.
        std::this_thread::sleep_for(std::chrono::microseconds(item % 7 * 50));
        return 2 * item;
      },
      [&](int result) { results.push_back(result); })
      .run();
  return results;
}

TEST(OrderedPipeline, ResultsComeInTheOrderOfTheItemsForAnyNumberOfWorkers) {
  std::vector<int> expected(200);
  for (int i = 0; i < 200; ++i) expected[i] = 2 * i;
  for (const int workers : {1, 2, 5}) {
    for (const size_t in_flight : {size_t{1}, size_t{3}, size_t{50}}) {
      EXPECT_EQ(doubled_in_order(200, workers, in_flight), expected) << workers << " " << in_flight;
    }
  }
  EXPECT_TRUE(doubled_in_order(0, 3, 2).empty());
}

TEST(OrderedPipeline, NoMoreThanTheLimitIsEverInFlight) {
  std::atomic<int> alive{0};
  int most = 0;
  Pipeline(
      {.num_workers = 3, .max_in_flight = 4},
      [&](const Pipeline::Push& push) {
        for (int i = 0; i < 300; ++i) {
          push(i);
          ++alive;
        }
      },
      [](int item) { return item; },
      [&](int) {
        std::this_thread::sleep_for(std::chrono::microseconds(100));  // everyone waits for this
        most = std::max(most, alive.load());
        --alive;
      })
      .run();
  EXPECT_LE(most, 4);
  EXPECT_GE(most, 2);  // and the producer does run ahead
}

TEST(OrderedPipeline, TheFirstFailureInOrderIsTheOneThatIsReported) {
  for (int repetition = 0; repetition < 20; ++repetition) {
    std::vector<int> results;
    try {
      Pipeline(
          {.num_workers = 4, .max_in_flight = 8},
          [](const Pipeline::Push& push) {
            for (int i = 0; push(i); ++i) {
            }
          },
          [](int item) {
            if (item == 5) std::this_thread::sleep_for(std::chrono::milliseconds(2));
            if (item >= 5) throw std::runtime_error(std::to_string(item));
            return item;
          },
          [&](int result) { results.push_back(result); })
          .run();
      FAIL();
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "5");
    }
    EXPECT_EQ(results, (std::vector<int>{0, 1, 2, 3, 4}));
  }
}

TEST(OrderedPipeline, AProducersFailureComesAfterItsItems) {
  std::vector<int> results;
  Pipeline pipeline(
      {.num_workers = 2, .max_in_flight = 2},
      [](const Pipeline::Push& push) {
        for (int i = 0; i < 7; ++i) push(i);
        throw std::runtime_error("unreadable");
      },
      [](int item) { return item; }, [&](int result) { results.push_back(result); });
  EXPECT_THROW(pipeline.run(), std::runtime_error);
  EXPECT_EQ(results, (std::vector<int>{0, 1, 2, 3, 4, 5, 6}));
}

TEST(OrderedPipeline, AConsumersFailureStopsAnEndlessProducer) {
  Pipeline pipeline(
      {.num_workers = 2, .max_in_flight = 2},
      [](const Pipeline::Push& push) {
        while (push(1)) {
        }
      },
      [](int item) { return item; }, [](int) { throw std::runtime_error("disk full"); });
  EXPECT_THROW(pipeline.run(), std::runtime_error);
}

}  // namespace
}  // namespace osp
