#include "osp/base/quantity.h"

#include <gtest/gtest.h>

#include "osp/base/error.h"

namespace osp {
namespace {

TEST(Quantity, PrefixesCountInThousandsOrIn1024s) {
  EXPECT_EQ(parse_quantity("32GiB", "B", "--memory"), 32.0 * 1024 * 1024 * 1024);
  EXPECT_EQ(parse_quantity("80GB", "B", "--memory"), 80e9);
  EXPECT_EQ(parse_quantity("80 GB", "B", "--memory"), 80e9);
  EXPECT_EQ(parse_quantity("1.5e9", "B", "--memory"), 1.5e9);
  EXPECT_EQ(parse_quantity("100GB/s", "B/s", "--bandwidth"), 100e9);
  EXPECT_EQ(parse_quantity("100G", "B/s", "--bandwidth"), 100e9);
  EXPECT_EQ(parse_quantity("4kB/s", "B/s", "--bandwidth"), 4000);
  EXPECT_EQ(parse_quantity("275TFLOP/s", "FLOP/s", "--flops"), 275e12);
  EXPECT_EQ(parse_quantity("1P", "FLOP/s", "--flops"), 1e15);
}

TEST(Quantity, BitsAreEighthsOfBytes) {
  EXPECT_EQ(parse_quantity("200Mbit/s", "B/s", "--bandwidth"), 25e6);
  EXPECT_EQ(parse_quantity("8bit", "B", "--memory"), 1);
}

TEST(Quantity, WhatIsNoAmountIsRefused) {
  for (const char* text : {"", "GB", "-3GB", "0", "nan", "inf", "1e400", "32GBs", "32 G B",
                           "32GB/s/s", "12bit/s", "32Xi"}) {
    EXPECT_THROW(parse_quantity(text, "B", "--memory"), Error) << text;
  }
  EXPECT_THROW(parse_quantity("10bit", "FLOP/s", "--flops"), Error);
}

}  // namespace
}  // namespace osp
