#include "osp/base/printable.h"

#include <gtest/gtest.h>

namespace osp {
namespace {

TEST(Printable, ControlAndOtherBytesAreEscaped) {
  EXPECT_EQ(printable("a \"b\" \\"), "a \"b\" \\");
  EXPECT_EQ(printable(std::string_view("\x1B[31m\n\0\x7F\xC3\xA9", 10)),
            R"(\x1b[31m\x0a\x00\x7f\xc3\xa9)");
}

TEST(Printable, LongTextIsCut) {
  EXPECT_EQ(printable("abcd", 4), "abcd");
  EXPECT_EQ(printable("abcde", 4), "abcd…");
  EXPECT_EQ(printable(std::string(1 << 20, 'x')), std::string(60, 'x') + "…");
}

}  // namespace
}  // namespace osp
