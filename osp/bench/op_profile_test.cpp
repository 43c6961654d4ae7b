#include "osp/bench/op_profile.h"

#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <algorithm>

namespace osp {
namespace {

const OpTime* find(const std::vector<OpTime>& times, const std::string& name) {
  const auto found =
      std::find_if(times.begin(), times.end(), [&](const OpTime& t) { return t.name == name; });
  return found == times.end() ? nullptr : &*found;
}

TEST(OpProfile, AnOperatorsTimeIsWithoutThatOfTheOperatorsInside) {
  const at::Tensor x = at::ones({512, 512});
  const OpProfile profile;
  {
    RECORD_USER_SCOPE("osp::outer");
    for (int i = 0; i < 3; ++i) at::mm(x, x);
  }
  const std::vector<OpTime> times = profile.times();
  const OpTime* outer = find(times, "osp::outer");
  const OpTime* product = find(times, "aten::mm");
  ASSERT_TRUE(outer && product);
  EXPECT_EQ(outer->calls, 1);
  EXPECT_EQ(product->calls, 3);
  EXPECT_LT(outer->seconds, product->seconds);
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end(), [](const OpTime& a, const OpTime& b) {
    return a.seconds > b.seconds;
  }));
}

TEST(OpProfile, HearsNothingAfterItsEnd) {
  const at::Tensor x = at::ones({8, 8});
  { const OpProfile profile; }
  at::mm(x, x);
  const OpProfile next;
  EXPECT_EQ(find(next.times(), "aten::mm"), nullptr);
}

}  // namespace
}  // namespace osp
