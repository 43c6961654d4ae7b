#include "osp/eval/task.h"

#include <gtest/gtest.h>

#include "osp/base/test_error.h"

namespace osp {
namespace {

TEST(Task, UnknownNameListsTheKnownOnes) {
  expect_error(ErrorCode::usage, {"\"arc\"", "arc_easy", "perplexity"}, [] { parse_tasks("arc"); });
  EXPECT_EQ(parse_tasks("paper,piqa").size(), 11u);
}

}  // namespace
}  // namespace osp
