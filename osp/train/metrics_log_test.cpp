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
