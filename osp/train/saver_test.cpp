// Saves beside the training thread: what is written is the snapshot, and failures are counted. Runs
// with ThreadSanitizer in scripts/check.sh.
#include "osp/train/saver.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/train/snapshot.h"
#include "osp/train/state.h"
#include "osp/train/test_run.h"

namespace osp {
namespace {

struct SaverTest : ::testing::Test {
  SaverTest() {
    write_test_shards(shards);
    state = make_state(resolved_test_recipe(shards));
    std::filesystem::create_directories(run);
  }

  Saver saver(int64_t keep) {
    return {{.run = run, .tokenizer_json = "", .manifest = {}, .keep = keep}, {}, console};
  }

  // Changes the state as a training step does: every weight and every moment changes.
  void step() {
    ++state->step;
    const double value = static_cast<double>(state->step);
    for (Bank& bank : state->store.banks) bank.master.fill_(value);
    for (auto& optimizer : state->optimizers) {
      for (auto& [name, tensor] : optimizer->state()) tensor.fill_(value);
    }
  }

  // Expects that every weight and moment of the checkpoint is the number of its step.
  void expect_whole(int64_t number) {
    const std::unique_ptr<TrainState> found = make_state(state->recipe);
    verify_checkpoint(checkpoint_path(run, number));
    load_snapshot(*found, checkpoint_path(run, number));
    EXPECT_EQ(found->step, number);
    const double value = static_cast<double>(number);
    for (const Bank& bank : found->store.banks) {
      EXPECT_TRUE(bank.master.eq(value).all().item<bool>()) << "step " << number;
    }
    for (auto& optimizer : found->optimizers) {
      for (auto& [name, tensor] : optimizer->state()) {
        EXPECT_TRUE(tensor.eq(value).all().item<bool>()) << name << " of step " << number;
      }
    }
  }

  TestFolder folder;
  std::string shards = folder / "shards", run = folder / "run";
  Console console{/*quiet=*/true};
  std::unique_ptr<TrainState> state;
};

TEST_F(SaverTest, WhatIsSavedInTheBackgroundIsTheSnapshotAndNotTheStepsAfterIt) {
  Saver saver = this->saver(3);
  for (int i = 0; i < 8; ++i) {
    step();
    saver.save(take_snapshot(*state, 0, /*copy=*/true), /*background=*/true);
  }
  step();
  saver.wait();
  EXPECT_EQ(saver.last_committed(), 8);
  EXPECT_EQ(list_checkpoints(run), (std::vector<int64_t>{6, 7, 8}));
  for (const int64_t number : {6, 7, 8}) expect_whole(number);
}

TEST_F(SaverTest, ASaverThatGoesAwayFinishesItsSave) {
  {
    Saver saver = this->saver(2);
    step();
    saver.save(take_snapshot(*state, 0, true), true);
  }
  expect_whole(1);
}

TEST_F(SaverTest, FailuresInARowEndTheRunAndASuccessForgetsThem) {
  Saver saver = this->saver(2);
  const std::string away = folder / "away";
  const auto block = [&] {
    std::filesystem::rename(run, away);
    write_file_durable(run, "a file where the folder was");
  };
  const auto unblock = [&] {
    std::filesystem::remove(run);
    std::filesystem::rename(away, run);
  };
  const auto save = [&] {
    step();
    saver.save(take_snapshot(*state, 0, true), true);
    saver.wait();
  };
  block();
  save();
  save();
  EXPECT_EQ(saver.last_committed(), -1);
  unblock();
  save();
  EXPECT_EQ(saver.last_committed(), 3);
  block();
  save();
  save();
  expect_error(ErrorCode::io, {"3 saves in a row have failed"}, save);
  unblock();
  EXPECT_EQ(saver.last_committed(), 3);
  expect_whole(3);
}

}  // namespace
}  // namespace osp
