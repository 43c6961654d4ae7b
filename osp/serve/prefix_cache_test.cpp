// Which pages a text finds again, and which are let go first.
#include "osp/serve/prefix_cache.h"

#include <gtest/gtest.h>

#include <numeric>

namespace osp {
namespace {

std::vector<int32_t> counted(size_t count, int32_t from = 0) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), from);
  return ids;
}

std::vector<std::string> chain_of(const std::vector<int32_t>& ids) {
  std::vector<std::string> chain;
  PrefixCache::extend_chain(ids, chain);
  return chain;
}

class Cached : public testing::Test {
 protected:
  PrefixCache::Pages take(size_t count) {
    PrefixCache::Pages pages;
    for (size_t i = 0; i < count; ++i) pages.push_back(pool_->take());
    return pages;
  }
  std::shared_ptr<KvPagePool> pool_ =
      std::make_shared<KvPagePool>(KvShape{.layers = 1, .heads = 1, .head_size = 32});
  PrefixCache cache_;
};

TEST(PrefixChain, HasOneHashForEachWholePageAndDependsOnAllBefore) {
  EXPECT_EQ(chain_of(counted(127)).size(), 0u);
  EXPECT_EQ(chain_of(counted(128)).size(), 1u);
  const auto chain = chain_of(counted(383));
  ASSERT_EQ(chain.size(), 2u);
  std::vector<int32_t> other = counted(256);
  other[0] = 9;
  EXPECT_NE(chain_of(other)[0], chain[0]);
  EXPECT_NE(chain_of(other)[1], chain[1]);
  // In steps it is the same.
  std::vector<std::string> steps;
  for (size_t n = 0; n <= 383; ++n) PrefixCache::extend_chain(counted(n), steps);
  EXPECT_EQ(steps, chain);
}

TEST_F(Cached, TheLongestKnownBeginningIsFound) {
  const auto chain = chain_of(counted(384));
  const auto pages = take(3);
  cache_.keep(std::span(chain).first(2), pages);
  EXPECT_EQ(cache_.find(chain, 9), (PrefixCache::Pages{pages[0], pages[1]}));
  EXPECT_EQ(cache_.find(chain, 1), (PrefixCache::Pages{pages[0]}));
  EXPECT_TRUE(cache_.find(chain_of(counted(384, 1)), 9).empty());
}

TEST_F(Cached, PagesInUseStayAndTheEndOfTheOldestGoesFirst) {
  const auto first = chain_of(counted(256)), second = chain_of(counted(256, 7));
  cache_.keep(first, take(2));
  cache_.keep(second, take(2));
  EXPECT_EQ(cache_.idle_pages(), 4);
  EXPECT_EQ(pool_->in_use(), 4);
  const auto held = cache_.find(second, 9);
  EXPECT_EQ(cache_.idle_pages(), 2);
  cache_.release(1);
  EXPECT_EQ(cache_.find(first, 9).size(), 1u);
  cache_.release(9);
  EXPECT_TRUE(cache_.find(first, 9).empty());
  EXPECT_EQ(cache_.find(second, 9).size(), 2u);
  EXPECT_EQ(pool_->in_use(), 2);
}

}  // namespace
}  // namespace osp
