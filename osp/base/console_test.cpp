#include "osp/base/console.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <limits>

#include "osp/base/test_error.h"

namespace osp {
namespace {

TEST(Console, BytesUseDecimalUnits) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(1000), "1.00 KB");
  EXPECT_EQ(format_bytes(3'210'000), "3.21 MB");
  EXPECT_EQ(format_bytes(5e9), "5.00 GB");
  EXPECT_EQ(format_bytes(2e16), "20000.00 TB");
}

TEST(Console, DurationsUseTheTwoLargestUnits) {
  EXPECT_EQ(format_duration(0), "0 s");
  EXPECT_EQ(format_duration(59.4), "59 s");
  EXPECT_EQ(format_duration(59.6), "1 min 00 s");
  EXPECT_EQ(format_duration(3599), "59 min 59 s");
  EXPECT_EQ(format_duration(3840), "1 h 04 min");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::quiet_NaN()), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(Console, CountsAreGroupedByThree) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(1234567), "1,234,567");
  EXPECT_EQ(format_count(-100), "-100");
  EXPECT_EQ(format_count(-1234567), "-1,234,567");
}

TEST(Console, QuietSilencesLinesAndStatusButNotWarnings) {
  testing::internal::CaptureStderr();
  Console quiet(true);
  quiet.line("line {}", 1);
  quiet.status("status");
  quiet.warn("disk {}", "full");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "warning: disk full\n");
}

// The kind: a stream that cannot be written.
TEST(Console, AStderrThatFailsIsIgnored) {
  const int kept = dup(STDERR_FILENO), full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  dup2(full, STDERR_FILENO);
  Console console;
  console.line("line");
  console.warn("warning");
  console.status("status");
  console.end_status();
  dup2(kept, STDERR_FILENO);
  close(full);
  close(kept);
}

TEST(Console, AStdoutThatFailsIsAnIoError) {
  const int kept = dup(STDOUT_FILENO), full = open("/dev/full", O_WRONLY);
  ASSERT_GE(full, 0);
  flush_stdout();
  dup2(full, STDOUT_FILENO);
  expect_error(ErrorCode::io, {"stdout", "No space left"}, [] {
    print_out("{}\n", 1);
    flush_stdout();
  });
  dup2(kept, STDOUT_FILENO);
  clearerr(stdout);
  close(full);
  close(kept);
}

TEST(Console, AwayFromATerminalStatusLinesAreRare) {
  testing::internal::CaptureStderr();
  Console console;
  const bool terminal = console.terminal();
  console.status("step 1");
  console.status("step 2");  // at once: dropped
  console.line("done");
  const std::string text = testing::internal::GetCapturedStderr();
  if (terminal) GTEST_SKIP() << "stderr is a terminal; run with 2>file to check the other form";
  EXPECT_EQ(text, "step 1\ndone\n");
}

}  // namespace
}  // namespace osp
