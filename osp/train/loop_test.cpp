// Whole runs in this process: resuming bit for bit, refusals, saving in the background.
#include "osp/train/loop.h"

#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <sstream>

#include "osp/base/file.h"
#include "osp/base/interrupt.h"
#include "osp/base/sha256.h"
#include "osp/base/test_error.h"
#include "osp/model/model_dir.h"
#include "osp/optim/optimizers.h"
#include "osp/train/checkpoint.h"
#include "osp/train/snapshot.h"
#include "osp/train/state.h"
#include "osp/train/step.h"
#include "osp/train/test_run.h"

namespace osp {
namespace {

namespace fs = std::filesystem;

struct Loop : ::testing::Test {
  TestFilesInMemory in_memory;
  TestFolder folder;
  std::string shards = folder / "tokens";
  Console quiet{true};
  void SetUp() override { write_test_shards(shards); }

  Json run(const Recipe& recipe, const std::string& name, bool resume = false) {
    return train(recipe, {.out = folder / name, .resume = resume, .init_from = {}}, quiet);
  }
};

// metrics.jsonl without what depends on the clock and the machine.
std::string timeless_metrics(const std::string& run) {
  std::istringstream lines(read_file(run + "/metrics.jsonl"));
  std::string result;
  for (std::string line; std::getline(lines, line);) {
    Json object = parse_json(line, run);
    for (const char* key : {"tokens_per_s", "mfu", "data_share", "peak_memory_bytes", "seconds"}) {
      object.erase(key);
    }
    result += object.dump() + "\n";
  }
  return result;
}

void expect_same_end(const std::string& a, const std::string& b, int64_t step) {
  for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
    EXPECT_EQ(sha256_file(checkpoint_path(a, step) + "/" + file),
              sha256_file(checkpoint_path(b, step) + "/" + file))
        << file;
  }
  EXPECT_EQ(timeless_metrics(a), timeless_metrics(b));
  const auto guard_of = [step](const std::string& run) {
    return read_json_file(checkpoint_path(run, step) + "/trainer.json")["guard"];
  };
  EXPECT_EQ(guard_of(a), guard_of(b));
}

void forget_checkpoints_after(const std::string& run, int64_t step) {
  for (const int64_t other : list_checkpoints(run)) {
    if (other > step) fs::remove_all(checkpoint_path(run, other));
  }
}

TEST_F(Loop, ResumingFromEveryStepIsBitExactTwiceInARow) {
  std::vector<Recipe> recipes;
  for (const std::string& optimizer : recipe_optimizer_names()) {
    recipes.push_back(test_recipe(shards, optimizer));
  }
  recipes.push_back(test_recipe(shards, "osp"));
  recipes.back().optim.muon.momentum_bits = 8;
  // In bf16 as well, as every shipped recipe trains.
  for (const char* optimizer : {"osp", "adam", "soap"}) {
    recipes.push_back(test_recipe(shards, optimizer));
    recipes.back().train.precision = "bf16";
  }
  for (size_t i = 0; i < recipes.size(); ++i) {
    const Recipe& recipe = recipes[i];
    const std::string name_of_whole = fmt::format("whole-{}", i);
    const std::string whole = folder / name_of_whole;
    run(recipe, name_of_whole);
    EXPECT_EQ(list_checkpoints(whole), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
    for (int64_t step = 1; step < 6; ++step) {
      const std::string name = "resumed";
      fs::remove_all(folder / name);
      fs::copy(whole, folder / name, fs::copy_options::recursive);
      for (const int64_t from : {step, step + 1}) {
        forget_checkpoints_after(folder / name, from);
        run(recipe, name, true);
        expect_same_end(whole, folder / name, 6);
      }
    }
  }
}

// The kind: a restored state that nothing asks for. The guard needs eight losses before it judges,
// so that a run that resumes without its window takes steps that the undisturbed one skips.
TEST_F(Loop, TheGuardJudgesAResumedRunByTheStepsBeforeIt) {
  Recipe recipe = test_recipe(shards);
  recipe.train.steps = 16;
  recipe.schedule.kind = "constant";
  recipe.guard.gradient_norm_z = 0.2;
  recipe.guard.max_consecutive_skips = 100;
  for (const char* precision : {"fp32", "bf16"}) {
    recipe.train.precision = precision;
    const std::string whole = std::string("whole-") + precision;
    recipe.train.checkpoint_every = 1;
    ASSERT_GT(run(recipe, whole)["skipped_steps"].get<int64_t>(), 0) << "nothing to be seen";
    const std::vector<int64_t> saved = list_checkpoints(folder / whole);
    int resumed = 0;
    for (const int64_t step : saved) {
      if (step < 8 || step == 16) continue;
      fs::remove_all(folder / "resumed");
      fs::copy(folder / whole, folder / "resumed", fs::copy_options::recursive);
      forget_checkpoints_after(folder / "resumed", step);
      run(recipe, "resumed", true);
      SCOPED_TRACE(fmt::format("{} from {}", precision, step));
      expect_same_end(folder / whole, folder / "resumed", 16);
      ++resumed;
    }
    EXPECT_GT(resumed, 0);
  }
}

TEST_F(Loop, AnOutlierProtectedRunResumesBitForBitAndLeavesNoScalars) {
  for (const char* optimizer : {"adam", "osp"}) {
    const Recipe recipe = outlier_protected(test_recipe(shards, optimizer));
    const std::string whole = folder / (std::string("whole-") + optimizer);
    const Json result = run(recipe, std::string("whole-") + optimizer);
    // fp32 sums in another order.
    EXPECT_LT(result["fused_logit_relative_difference"].get<double>(), 1e-4) << optimizer;
    const ParameterStore fused = load_model_dir(whole);
    EXPECT_FALSE(fused.config.branch_scale || fused.config.embedding_norm);
    EXPECT_EQ(fused.config.norm, "none");
    const std::string name = std::string("resumed-") + optimizer;
    fs::copy(whole, folder / name, fs::copy_options::recursive);
    forget_checkpoints_after(folder / name, 3);
    run(recipe, name, true);
    expect_same_end(whole, folder / name, 6);
  }
}

TEST_F(Loop, ASaveFromACopyHasTheSameBytesAsOneInTheForeground) {
  const auto state = make_state(resolved_test_recipe(shards));
  const TokenDataset data = TokenDataset::open(shards, "train");
  train_step(*state, data, false);
  const Snapshot copy = take_snapshot(*state, 10, true);
  for (const char* name : {"foreground", "background"}) fs::create_directories(folder / name);
  write_frame(take_snapshot(*state, 10, false), folder / "foreground", "");
  write_ranges(take_snapshot(*state, 10, false), folder / "foreground");
  train_step(*state, data, false);
  write_frame(copy, folder / "background", "");
  write_ranges(copy, folder / "background");
  int files = 0;
  for (const auto& entry : fs::directory_iterator(folder / "foreground")) {
    const std::string name = entry.path().filename().string();
    EXPECT_EQ(read_file(folder / ("foreground/" + name)),
              read_file(folder / ("background/" + name)))
        << name;
    ++files;
  }
  EXPECT_GE(files, 5);
}

TEST_F(Loop, EverythingOfASnapshotIsRestored) {
  const Recipe recipe = resolved_test_recipe(shards);
  const auto saved = make_state(recipe), loaded = make_state(recipe);
  const TokenDataset data = TokenDataset::open(shards, "train");
  for (int i = 0; i < 3; ++i) train_step(*saved, data, false);
  saved->seconds = 1234.5;
  saved->watched = true;
  fs::create_directories(folder / "saved");
  write_frame(take_snapshot(*saved, 77, false), folder / "saved", "");
  write_ranges(take_snapshot(*saved, 77, false), folder / "saved");
  EXPECT_EQ(load_snapshot(*loaded, folder / "saved"), 77u);
  EXPECT_EQ(loaded->step, 3);
  EXPECT_EQ(loaded->seconds, 1234.5);
  EXPECT_TRUE(loaded->watched);
  EXPECT_EQ(loaded->guard.to_json(), saved->guard.to_json());
  EXPECT_EQ(loaded->guard.window_size(), 3u);
  // The next step is the same one, so that nothing else is missing.
  EXPECT_EQ(train_step(*loaded, data, false).gradient_norms,
            train_step(*saved, data, false).gradient_norms);
}

TEST_F(Loop, AStopRequestSavesAndTheResumedRunEndsTheSame) {
  Recipe recipe = test_recipe(shards);
  recipe.train.checkpoint_every = 0;
  run(recipe, "whole");
  catch_signals();
  std::raise(SIGTERM);
  const std::string message = message_of(ErrorCode::interrupted, [&] { run(recipe, "stopped"); });
  clear_stop_request();
  EXPECT_NE(message.find("SIGTERM"), std::string::npos);
  EXPECT_EQ(list_checkpoints(folder / "stopped"), std::vector<int64_t>{0});
  run(recipe, "stopped", true);
  expect_same_end(folder / "whole", folder / "stopped", 6);
}

TEST_F(Loop, AFolderWithCheckpointsNeedsResume) {
  run(test_recipe(shards), "a");
  const std::string message = message_of(ErrorCode::usage, [&] { run(test_recipe(shards), "a"); });
  EXPECT_NE(message.find("has checkpoints up to step-6; add --resume"), std::string::npos);
}

TEST_F(Loop, AFinishedRunResumesToTheSameEnd) {
  run(test_recipe(shards), "a");
  fs::copy(folder / "a", folder / "b", fs::copy_options::recursive);
  fs::remove_all(folder / "b/model");
  run(test_recipe(shards), "b", true);
  expect_same_end(folder / "a", folder / "b", 6);
  EXPECT_TRUE(path_exists(folder / "b/model/config.json"));
}

TEST_F(Loop, AFolderOfAnotherRecipeIsRefusedWithTheKeysThatDiffer) {
  Recipe recipe = test_recipe(shards);
  run(recipe, "a");
  recipe.optim.lr = 0.5;
  recipe.run.seed = 3;
  const std::string message = message_of(ErrorCode::usage, [&] { run(recipe, "a", true); });
  EXPECT_NE(message.find("run.seed (1 there, 3 here), optim.lr (0.003 there, 0.5 here)"),
            std::string::npos)
      << message;
  recipe = test_recipe(shards);
  recipe.train.keep_checkpoints = 3;  // decides nothing about the numbers
  run(recipe, "a", true);
}

TEST_F(Loop, OtherDataIsRefused) {
  run(test_recipe(shards), "a");
  ShardSetWriter writer(folder / "other", {.vocabulary = 64, .end_of_document = 0});
  for (const char* split : {"train", "validation"}) {
    writer.append(split, std::vector<int32_t>(1000, 3), 1);
  }
  writer.commit();
  const std::string message =
      message_of(ErrorCode::usage, [&] { run(test_recipe(folder / "other"), "a", true); });
  EXPECT_NE(message.find("other data"), std::string::npos) << message;
}

TEST_F(Loop, OldCheckpointsAreRemovedButNeverBelowTwo) {
  Recipe recipe = test_recipe(shards);
  recipe.train.keep_checkpoints = 2;
  run(recipe, "a");
  EXPECT_EQ(list_checkpoints(folder / "a"), (std::vector<int64_t>{5, 6}));
}

// The kind: retention that depends on how often the run was restarted.
TEST_F(Loop, AsManyCheckpointsStayAsAreWantedAfterAnyNumberOfRestarts) {
  Recipe recipe = test_recipe(shards);
  recipe.train.keep_checkpoints = 2;
  recipe.schedule.warmup_steps = 0;
  for (int64_t steps = 2; steps <= 6; ++steps) {
    recipe.train.steps = steps;
    run(recipe, "a", steps > 2);
    EXPECT_EQ(list_checkpoints(folder / "a"), (std::vector<int64_t>{steps - 1, steps}));
  }
}

TEST_F(Loop, ADamagedNewestCheckpointCostsNoIntactOne) {
  Recipe recipe = test_recipe(shards);
  run(recipe, "a");
  forget_checkpoints_after(folder / "a", 5);
  recipe.train.keep_checkpoints = 2;
  write_file_atomic(checkpoint_path(folder / "a", 5) + "/trainer.json", "{}");
  EXPECT_EQ(find_checkpoint(folder / "a").healthy, (std::vector<int64_t>{3, 4}));
  run(recipe, "a", true);
  EXPECT_EQ(list_checkpoints(folder / "a"), (std::vector<int64_t>{5, 6}));
  EXPECT_FALSE(path_exists(folder / "a/step-5.damaged"));
}

// The kind: a state in trouble that takes the place of a healthy one.
TEST_F(Loop, NoCheckpointOfAStreakOfSkippedStepsReplacesAHealthyOne) {
  Recipe recipe = test_recipe(shards);
  recipe.train.steps = 200;
  recipe.train.keep_checkpoints = 2;
  recipe.schedule.kind = "constant";
  recipe.guard.loss_z = 0.001;
  recipe.guard.max_consecutive_skips = 3;
  const auto diverged = [&](bool resume) {
    return message_of(ErrorCode::diverged, [&] { run(recipe, "a", resume); });
  };
  EXPECT_NE(diverged(false).find("--resume-from step-"), std::string::npos);
  const std::vector<int64_t> kept = list_checkpoints(folder / "a");
  ASSERT_EQ(kept.size(), 2u);
  for (const int64_t step : kept) EXPECT_EQ(skips_in_a_row(checkpoint_path(folder / "a", step)), 0);
  diverged(true);
  EXPECT_EQ(list_checkpoints(folder / "a"), kept)
      << "resuming repeats the trouble, and costs nothing";
}

TEST_F(Loop, AnOlderCheckpointCanBeChosenAndTheRunEndsTheSame) {
  run(test_recipe(shards), "whole");
  run(test_recipe(shards), "a");
  train(test_recipe(shards), {.out = folder / "a", .resume_from = "step-2", .init_from = {}},
        quiet);
  expect_same_end(folder / "whole", folder / "a", 6);
  EXPECT_EQ(list_checkpoints(folder / "a"), (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
}

// The kind: something new or longer that makes every older run unresumable.
TEST_F(Loop, ARecipeOfAnOlderProgramIsCompletedWithDefaults) {
  const Recipe recipe = resolved_test_recipe(shards);
  Json there = recipe_json(recipe);
  EXPECT_EQ(recipe_differences(there, recipe), "");
  there["optim"].erase("momentum");
  there["model"].erase("head_size");  // follows from others
  there["train"]["steps"] = 1000;     // the length of a run is no difference
  there["train"]["tokens"] = 64000;
  EXPECT_EQ(recipe_differences(there, recipe), "");
  Recipe other = recipe;
  other.optim.momentum = 0.5;
  EXPECT_EQ(recipe_differences(there, other), "optim.momentum (0.95 there, 0.5 here)");
  there["optim"]["from_the_future"] = 3;
  EXPECT_EQ(recipe_differences(there, recipe),
            "optim.from_the_future (3 there, unknown to this program)");
}

TEST_F(Loop, ARunCanStartFromOldWeights) {
  run(test_recipe(shards), "a");
  Recipe recipe = test_recipe(shards);
  recipe.optim.lr = 0;
  recipe.optim.weight_decay = 0;
  train(recipe, {.out = folder / "b", .init_from = folder / "a/step-6"}, quiet);
  EXPECT_EQ(sha256_file(folder / "a/step-6/model.safetensors"),
            sha256_file(folder / "b/step-6/model.safetensors"));
  recipe.model.width = 64;
  const auto start = [&] {
    train(recipe, {.out = folder / "c", .init_from = folder / "a/step-6"}, quiet);
  };
  EXPECT_NE(message_of(ErrorCode::usage, start).find("another shape"), std::string::npos);
}

TEST_F(Loop, IdsBeyondTheVocabularyAreFoundBeforeTheFirstStep) {
  ShardSetWriter writer(folder / "bad", {.vocabulary = 64, .end_of_document = 0});
  for (const char* split : {"train", "validation"}) {
    writer.append(split, std::vector<int32_t>(1000, 63), 1);
  }
  writer.commit();
  // The index is changed to say 60, as a damaged one would.
  std::string index = read_file(folder / "bad/index.json");
  const size_t place = index.find("64");
  ASSERT_NE(place, std::string::npos);
  index.replace(place, 2, "60");
  write_file_atomic(folder / "bad/index.json", index);
  message_of(ErrorCode::damaged, [&] { run(test_recipe(folder / "bad"), "a"); });
  EXPECT_FALSE(path_exists(folder / "a"));
}

}  // namespace
}  // namespace osp
