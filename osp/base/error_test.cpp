#include "osp/base/error.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(Error, ExitStatusesAreTheDocumentedOnes) {
  EXPECT_EQ(exit_status(ErrorCode::usage), 2);
  EXPECT_EQ(exit_status(ErrorCode::damaged), 3);
  EXPECT_EQ(exit_status(ErrorCode::unsupported), 3);
  EXPECT_EQ(exit_status(ErrorCode::diverged), 4);
  EXPECT_EQ(exit_status(ErrorCode::io), 5);
  EXPECT_EQ(exit_status(ErrorCode::interrupted), 75);
}

TEST(Error, FailCarriesCodeAndFormattedMessage) {
  try {
    fail(ErrorCode::damaged, "{}: {} bytes", "x.bin", 3);
    FAIL() << "fail() returned";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::damaged);
    EXPECT_STREQ(error.what(), "x.bin: 3 bytes");
  }
}

TEST(Error, CheckThrowsLogicErrorThatNamesConditionAndPlace) {
  const int found = 3;
  EXPECT_NO_THROW(OSP_CHECK(found == 3, "found {}", found));
  try {
    OSP_CHECK(found == 4, "found {}", found);
    FAIL() << "OSP_CHECK let a false condition pass";
  } catch (const std::logic_error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("found == 4"), text.npos) << text;
    EXPECT_NE(text.find("error_test.cpp:"), text.npos) << text;
    EXPECT_NE(text.find("found 3"), text.npos) << text;
  }
}

}  // namespace
}  // namespace osp
