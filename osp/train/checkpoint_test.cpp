// Checkpoint folders: all or nothing, and what is damaged is never used.
#include "osp/train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

struct Checkpoint : ::testing::Test {
  TestFolder own_folder;  // each test's own: they run side by side
  std::string run = own_folder.path();

  void commit(int64_t step) {
    commit_checkpoint(run, step, {{"config", "abc"}}, [&](const std::string& folder) {
      write_file_durable(folder + "/a.json", "{\"step\":" + std::to_string(step) + "}");
      write_file_durable(folder + "/b.bin", std::string(1000, 'b'));
      return Json{{"a.json", describe_file(folder + "/a.json")},
                  {"b.bin", describe_file(folder + "/b.bin")}};
    });
  }

  static void flip_bit(const std::string& path, size_t byte) {
    std::string bytes = read_file(path);
    bytes[byte] = char(bytes[byte] ^ 1);
    std::ofstream(path, std::ios::binary) << bytes;
  }
};

TEST_F(Checkpoint, ACommittedFolderVerifiesAndKeepsItsManifest) {
  commit(10);
  const Json manifest = verify_checkpoint(checkpoint_path(run, 10));
  EXPECT_EQ(manifest["config"], "abc");
  EXPECT_EQ(manifest["step"], 10);
  EXPECT_EQ(manifest["files"]["b.bin"]["bytes"], 1000);
  EXPECT_FALSE(path_exists(run + "/step-10.tmp"));
}

TEST_F(Checkpoint, AFlippedBitInAnyFileIsSeenAndTheOneBeforeIsTaken) {
  commit(10);
  commit(20);
  for (const char* name : {"a.json", "b.bin", "manifest.json"}) {
    const std::string path = run + "/step-20/" + name;
    for (size_t byte = 0; byte < read_file(path).size(); byte += 7) {
      flip_bit(path, byte);
      const FoundCheckpoint found = find_checkpoint(run);
      EXPECT_EQ(found.step, 10) << name << " byte " << byte;
      EXPECT_EQ(found.warnings.size(), 1u);
      flip_bit(path, byte);
    }
    EXPECT_EQ(find_checkpoint(run).step, 20);
  }
}

TEST_F(Checkpoint, ATruncatedOrMissingFileIsSeen) {
  commit(10);
  commit(20);
  fs::resize_file(run + "/step-20/b.bin", 999);
  EXPECT_EQ(find_checkpoint(run).step, 10);
  fs::remove(run + "/step-20/b.bin");
  EXPECT_EQ(find_checkpoint(run).step, 10);
  fs::remove(run + "/step-20/manifest.json");
  const FoundCheckpoint found = find_checkpoint(run);
  EXPECT_EQ(found.step, 10);
  EXPECT_NE(found.warnings.at(0).find("manifest.json"), std::string::npos);
}

TEST_F(Checkpoint, NoneValidIsAnErrorAndNoneAtAllIsNot) {
  EXPECT_EQ(find_checkpoint(run).step, -1);
  EXPECT_EQ(find_checkpoint(run + "/absent").step, -1);
  commit(10);
  flip_bit(run + "/step-10/b.bin", 0);
  EXPECT_NE(message_of(ErrorCode::damaged, [&] { find_checkpoint(run); }).find("step-10"),
            std::string::npos);
}

TEST_F(Checkpoint, AFailedSaveLeavesNothingBehindAndKeepsTheOldOnes) {
  commit(10);
  const auto failing = [&] {
    commit_checkpoint(run, 20, {}, [](const std::string& folder) -> Json {
      write_file_durable(folder + "/a.json", "{}");
      fail(ErrorCode::io, "the disk is full");
    });
  };
  EXPECT_NE(message_of(ErrorCode::io, failing).find("the disk is full"), std::string::npos);
  EXPECT_FALSE(path_exists(run + "/step-20"));
  EXPECT_FALSE(path_exists(run + "/step-20.tmp"));
  EXPECT_EQ(find_checkpoint(run).step, 10);
  commit(20);
  EXPECT_EQ(find_checkpoint(run).step, 20);
}

TEST_F(Checkpoint, AFullDiskFailsTheSaveCleanly) {
  commit(10);
  auto* const old_handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit limited{500, old.rlim_max};  // b.bin has 1000 bytes
  setrlimit(RLIMIT_FSIZE, &limited);
  message_of(ErrorCode::io, [&] { commit(20); });
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(list_checkpoints(run), std::vector<int64_t>{10});
  EXPECT_FALSE(path_exists(run + "/step-20.tmp"));
}

TEST_F(Checkpoint, OnlyExactNamesAreCheckpoints) {
  commit(10);
  for (const char* name : {"step-11.tmp", "step-012", "step-", "step-9x", "model", "step--3"}) {
    fs::create_directories(run + "/" + name);
  }
  write_file_durable(run + "/step-13", "a file");
  EXPECT_EQ(list_checkpoints(run), std::vector<int64_t>{10});
}

TEST_F(Checkpoint, CleaningRemovesLeftOversAndSetsDamagedOnesAside) {
  commit(10);
  commit(20);
  fs::create_directories(run + "/step-30.tmp");
  fs::create_directories(run + "/step-5.old");
  flip_bit(run + "/step-20/b.bin", 0);
  clean_run_folder(run, find_checkpoint(run));
  EXPECT_EQ(list_checkpoints(run), std::vector<int64_t>{10});
  EXPECT_TRUE(path_exists(run + "/step-20.damaged"));
  EXPECT_FALSE(path_exists(run + "/step-30.tmp"));
  EXPECT_FALSE(path_exists(run + "/step-5.old"));
}

// The kind: only what one process has saved was counted.
TEST_F(Checkpoint, EveryIntactOneCountsWhoeverSavedItAndSurplusOnesGo) {
  for (const int64_t step : {10, 20, 30, 40, 50}) commit(step);
  flip_bit(run + "/step-50/b.bin", 0);
  flip_bit(run + "/step-30/b.bin", 0);
  const FoundCheckpoint found = find_checkpoint(run, -1, 2);
  EXPECT_EQ(found.step, 40);
  EXPECT_EQ(found.healthy, (std::vector<int64_t>{20, 40})) << "damaged ones push out no intact one";
  EXPECT_EQ(found.damaged, (std::vector<int64_t>{30, 50}));
  EXPECT_EQ(found.surplus, std::vector<int64_t>{10});
  clean_run_folder(run, found);
  EXPECT_EQ(list_checkpoints(run), (std::vector<int64_t>{20, 40}));
}

TEST_F(Checkpoint, WhatIsSetAsideGoesWhenTheRunHasPassedIt) {
  for (const int64_t step : {10, 20, 30}) commit(step);
  flip_bit(run + "/step-20/b.bin", 0);
  clean_run_folder(run, find_checkpoint(run, -1, 3));
  clean_run_folder(run, find_checkpoint(run, 10, 3));
  EXPECT_EQ(list_checkpoints(run), std::vector<int64_t>{10});
  remove_set_aside(run, 19);
  EXPECT_TRUE(path_exists(run + "/step-20.damaged") && path_exists(run + "/step-30.superseded"));
  remove_set_aside(run, 20);
  EXPECT_FALSE(path_exists(run + "/step-20.damaged"));
  EXPECT_TRUE(path_exists(run + "/step-30.superseded"));
  remove_set_aside(run, 35);
  EXPECT_FALSE(path_exists(run + "/step-30.superseded"));
}

TEST_F(Checkpoint, AChosenOneMustBeThereAndIntact) {
  for (const int64_t step : {10, 20}) commit(step);
  EXPECT_EQ(find_checkpoint(run, 10).step, 10);
  EXPECT_EQ(find_checkpoint(run, 10).superseded, std::vector<int64_t>{20});
  expect_error(ErrorCode::usage, {"step-15", "10, 20"}, [&] { find_checkpoint(run, 15); });
  flip_bit(run + "/step-20/b.bin", 0);
  expect_error(ErrorCode::damaged, {"step-20"}, [&] { find_checkpoint(run, 20); });
}

TEST_F(Checkpoint, PurgingKeepsTheNewestAndOnlyCountsValidOnes) {
  for (const int64_t step : {10, 20, 30, 40}) commit(step);
  // 40 is not among those known to be valid, so it neither counts nor goes.
  EXPECT_EQ(purge_checkpoints(run, {10, 20, 30}, 2), (std::vector<int64_t>{20, 30}));
  EXPECT_EQ(list_checkpoints(run), (std::vector<int64_t>{20, 30, 40}));
}

}  // namespace
}  // namespace osp
