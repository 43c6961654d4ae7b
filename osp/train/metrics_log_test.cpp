// metrics.jsonl under failing writes and after a crash.
#include "osp/train/metrics_log.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <limits>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/test_file_limit.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

struct MetricsLogTest : ::testing::Test {
  TestFolder folder;  // each test's own: they run side by side
  std::string path = folder / "metrics.jsonl";
};

TEST_F(MetricsLogTest, ResumingCutsBackToTheStoredLength) {
  uint64_t kept = 0;
  {
    MetricsLog log(path, 0);
    log.add({{"step", 1}});
    kept = log.bytes();
    log.add({{"step", 2}});
  }
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 3);  // a torn line
  MetricsLog log(path, kept);
  log.add({{"step", 2}});
  log.sync();
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n");
}

TEST_F(MetricsLogTest, AFailedWriteLeavesWholeLinesAndIsMadeUpForLater) {
  MetricsLog log(path, 0);
  log.add({{"step", 1}});
  {
    const FileSizeLimit limit(15);  // the second line does not fit
    log.add({{"step", 2}});
    EXPECT_NE(log.take_failure(), "");
    EXPECT_EQ(log.take_failure(), "") << "told once";
    EXPECT_EQ(read_file(path), "{\"step\":1}\n");
    EXPECT_THROW(log.sync(), Error);
  }
  log.add({{"step", 3}});
  log.sync();
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n");
}

TEST_F(MetricsLogTest, NumbersThatAreNotFiniteBecomeNull) {
  MetricsLog log(path, 0);
  log.add({{"loss", std::numeric_limits<double>::quiet_NaN()}});
  log.sync();
  EXPECT_EQ(read_file(path), "{\"loss\":null}\n");
}

// The kind: a log that is not what the checkpoint says. It never stops a run.
TEST_F(MetricsLogTest, ALogThatWasCutDeletedOrChangedIsContinuedWithItsWholeLines) {
  std::string warning;
  EXPECT_EQ(usable_metrics(path, 0, 0, warning), 0u);
  EXPECT_EQ(warning, "") << "a new run";
  EXPECT_EQ(usable_metrics(path, 100, 4, warning), 0u) << "deleted";
  EXPECT_NE(warning.find("100 bytes"), std::string::npos) << warning;
  const std::string first = "{\"kind\":\"start\"}\n{\"step\":3}\n", rest = "{\"step\":5}\n{\"st";
  write_file_atomic(path, first + rest);
  warning.clear();
  EXPECT_EQ(usable_metrics(path, first.size(), 4, warning), first.size());
  EXPECT_EQ(warning, "") << "as it was left by a crash";
  EXPECT_EQ(usable_metrics(path, 100, 4, warning), first.size()) << "short; step 5 comes again";
  EXPECT_EQ(usable_metrics(path, 5, 4, warning), first.size()) << "no line ends there";
}

TEST_F(MetricsLogTest, AFileThatWasChangedIsRefused) {
  {
    MetricsLog log(path, 0);
    log.add({{"step", 1}});
  }
  EXPECT_THROW(MetricsLog(path, 100), Error) << "shorter than at the checkpoint";
  EXPECT_THROW(MetricsLog(path, 5), Error) << "the kept part ends inside a line";
}

}  // namespace
}  // namespace osp
