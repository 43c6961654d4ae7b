// Faults at every call with which a run writes: killed there, or the call fails. Whatever it was,
// an intact checkpoint stays and the resumed run ends bit for bit like an undisturbed one.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "osp/base/file.h"
#include "osp/base/sha256.h"
#include "osp/base/test_folder.h"
#include "osp/base/test_write_calls.h"
#include "osp/model/model_dir.h"
#include "osp/train/checkpoint.h"
#include "osp/train/loop.h"
#include "osp/train/test_run.h"

#if defined(__x86_64__)

namespace osp {
namespace {

// A run of three steps with two checkpoints kept, to be resumed from its second step: what follows
// writes the log, a checkpoint, removes an old one and writes the model.
struct Crash : ::testing::Test {
  static constexpr int64_t kLast = 3;
  static constexpr const char* kEnd = "{\"kind\":\"end\"";  // the last line of a finished run's log
  TestFilesInMemory in_memory;
  TestFolder folder;
  std::string shards = folder / "tokens";
  std::string begun = folder / "begun", whole = folder / "whole", run = folder / "run";
  Console quiet{true};
  Recipe recipe;
  int threads = at::get_num_threads();

  void SetUp() override {
    at::set_num_threads(1);  // a child has only the thread that forked it
    write_test_shards(shards);
  }
  void TearDown() override { at::set_num_threads(threads); }

  void prepare(const std::string& precision) {
    namespace fs = std::filesystem;
    for (const std::string& path : {begun, whole, run}) fs::remove_all(path);
    recipe = test_recipe(shards);
    recipe.train.precision = precision;
    recipe.train.steps = kLast;
    recipe.train.keep_checkpoints = 100;
    train(recipe, {.out = whole, .init_from = {}}, quiet);
    fs::copy(whole, begun, fs::copy_options::recursive);
    fs::remove_all(checkpoint_path(begun, kLast));
    fs::remove_all(begun + "/model");
    const std::string log = read_file(begun + "/metrics.jsonl");
    write_file_atomic(begun + "/metrics.jsonl", log.substr(0, log.rfind(kEnd)));
    recipe.train.keep_checkpoints = 2;
  }

  void start() {
    std::filesystem::remove_all(run);
    std::filesystem::copy(begun, run, std::filesystem::copy_options::recursive);
  }

  void resume() { train(recipe, {.out = run, .resume = true, .init_from = {}}, quiet); }

  void expect_intact() {
    const FoundCheckpoint found = find_checkpoint(run);
    EXPECT_GE(found.step, kLast - 1);
    EXPECT_GE(found.healthy.size(), 2u);
    EXPECT_TRUE(found.damaged.empty());
    // A log that has ended has a model beside it.
    if (read_file(run + "/metrics.jsonl").find(kEnd) != std::string::npos) {
      EXPECT_NO_THROW(load_model_dir(run + "/model"));
    }
  }

  std::string steps_logged(const std::string& path) {
    std::string steps;
    const std::string text = read_file(path + "/metrics.jsonl");
    EXPECT_TRUE(text.ends_with('\n'));
    for (size_t first = 0, end = 0; (end = text.find('\n', first)) != text.npos; first = end + 1) {
      const Json line = parse_json(text.substr(first, end - first), path);
      steps += line["kind"].get<std::string>();
      if (line.contains("step")) steps += line["step"].dump();
      if (line.contains("loss")) steps += " " + line["loss"].dump();
      steps += "\n";
    }
    return steps;
  }

  void expect_same_end() {
    for (const char* file : {"model.safetensors", "optimizer.safetensors"}) {
      EXPECT_EQ(sha256_file(checkpoint_path(run, kLast) + "/" + file),
                sha256_file(checkpoint_path(whole, kLast) + "/" + file));
    }
    EXPECT_EQ(sha256_file(run + "/model/model.safetensors"),
              sha256_file(whole + "/model/model.safetensors"));
    EXPECT_EQ(steps_logged(run), steps_logged(whole));
    EXPECT_EQ(list_checkpoints(run), (std::vector<int64_t>{kLast - 1, kLast}));
    for (const auto& entry : std::filesystem::recursive_directory_iterator(run)) {
      const std::string name = entry.path().filename().string();
      EXPECT_EQ(name.find(".tmp"), std::string::npos) << name;
      EXPECT_FALSE(name.ends_with(".old")) << name;
    }
  }

  // Resumes under the fault at call k = 1, 2, … until a run has fewer calls. Returns their number.
  int64_t fault_at_every_call(CallFault fault, int error) {
    int64_t call = 0;
    for (;;) {
      ++call;
      SCOPED_TRACE(fmt::format("call {}", call));
      start();
      const TracedEnd end = run_traced([this] { resume(); }, fault, call, error);
      if (!end.can_trace || end.calls < call) break;
      if (fault == CallFault::kill) {
        EXPECT_TRUE(end.killed);
      } else {
        EXPECT_TRUE(end.status == 0 || end.status == 5) << end.status;
      }
      expect_intact();
      resume();
      expect_same_end();
      if (HasFailure()) break;
    }
    return call - 1;
  }

  // The calls of a run that nothing disturbs; skips the test where nothing can be traced.
  TracedEnd undisturbed() {
    start();
    return run_traced([this] { resume(); }, CallFault::none, 0);
  }
};

TEST_F(Crash, AKillAtAnyCallThatWritesLosesNothing) {
  for (const char* precision : {"fp32", "bf16"}) {
    prepare(precision);
    const TracedEnd whole_run = undisturbed();
    if (!whole_run.can_trace) GTEST_SKIP() << "ptrace is forbidden here";
    ASSERT_EQ(whole_run.status, 0);
    // The calls that a save consists of: fewer kinds would mean that a call escapes the tracer.
    for (const char* name :
         {"openat", "write", "pwrite64", "fsync", "rename", "mkdir", "unlinkat"}) {
      EXPECT_GT(whole_run.names.count(name), 0u) << name;
    }
    const int64_t calls = fault_at_every_call(CallFault::kill, 0);
    EXPECT_EQ(calls, whole_run.calls);
    RecordProperty(std::string("calls_") + precision, std::to_string(calls));
  }
}

TEST_F(Crash, AnyCallThatFailsOnceLosesNothing) {
  prepare("bf16");
  if (!undisturbed().can_trace) GTEST_SKIP() << "ptrace is forbidden here";
  EXPECT_GT(fault_at_every_call(CallFault::fail_once, EIO), 100);
}

TEST_F(Crash, ADiskThatIsFullFromAnyCallOnLosesNothing) {
  prepare("bf16");
  if (!undisturbed().can_trace) GTEST_SKIP() << "ptrace is forbidden here";
  EXPECT_GT(fault_at_every_call(CallFault::fail_from_then_on, ENOSPC), 100);
}

}  // namespace
}  // namespace osp

#endif
