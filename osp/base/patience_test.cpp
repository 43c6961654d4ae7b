#include "osp/base/patience.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(Patience, LooksUntilTheConditionIsTrueOrTheTimeIsOver) {
  int looks = 0;
  EXPECT_TRUE(comes_true([&] { return ++looks == 3; }));
  EXPECT_EQ(looks, 3);
  looks = 0;
  EXPECT_FALSE(comes_true([&] { return ++looks < 0; }, std::chrono::milliseconds(60)));
  EXPECT_GE(looks, 2);
}

}  // namespace
}  // namespace osp
