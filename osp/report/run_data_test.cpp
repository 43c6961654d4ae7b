#include "osp/report/run_data.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/file.h"

namespace osp {
namespace {

constexpr const char* kStep =
    R"({"kind":"step","step":1,"tokens":100,"loss":null,"lr":0.003,"skipped":true})";
constexpr const char* kValidation =
    R"({"kind":"validation","step":2,"tokens":200,"loss":3.5,)"
    R"("excess_kurtosis":{"mean":1.5,"clipped_mean":2.5,"per_layer":[1,2]},)"
    R"("largest_activation":{"value":40,"layer":1,"position":0,"channel":7,"token":"a"}})";

class RunFolder : public ::testing::Test {
 protected:
  // A folder with these metrics.
  std::string run(const std::string& name, const std::string& metrics) {
    const std::string path = root_ + "/" + name;
    make_directories(path);
    write_file_atomic(path + "/metrics.jsonl", metrics);
    return path;
  }
  std::string message_of(const std::string& path) {
    try {
      read_run(path);
    } catch (const Error& error) {
      return fmt::format("{} {}", exit_status(error.code()), error.what());
    }
    return "no error";
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::string root_ = ::testing::TempDir() + "osp_run_" +
                      ::testing::UnitTest::GetInstance()->current_test_info()->name();
};

TEST_F(RunFolder, RecordsBecomeCurvesAndNullBecomesNaN) {
  const RunData run_data = read_run(run("adam-best", fmt::format("{}\n{}\n", kStep, kValidation)));
  EXPECT_EQ(run_data.key, "adam_best");
  EXPECT_TRUE(std::isnan(run_data.loss.values.at(0)));
  EXPECT_EQ(run_data.peak_learning_rate(), 0.003);
  EXPECT_EQ(run_data.skipped_steps, 1);
  EXPECT_EQ(run_data.tokens, 200);
  EXPECT_EQ(run_data.final_validation_loss(), 3.5);
  EXPECT_EQ(run_data.outliers().kurtosis, 1.5);
  EXPECT_EQ(run_data.outliers().largest.channel, 7);
  EXPECT_EQ(run_data.missing.size(), 4u);  // recipe, eval, analysis, the end record
}

TEST_F(RunFolder, AnalysisOfTheFinishedModelGoesBeforeTheLastValidation) {
  const std::string path = run("osp", fmt::format("{}\n", kValidation));
  write_file_atomic(path + "/analysis.json",
                    R"({"model":"m","data":"d","excess_kurtosis":{"mean":-0.25,"per_layer":[0]},)"
                    R"("largest_activation":{"value":9,"layer":0,"position":0,"channel":0}})");
  EXPECT_EQ(read_run(path).outliers().kurtosis, -0.25);
}

TEST_F(RunFolder, TornLineIsDamagedAndNamed) {
  const std::string path = run("a", fmt::format("{}\n{{\"kind\":\"st", kStep));
  const std::string message = message_of(path);
  EXPECT_TRUE(message.starts_with("3 " + path + "/metrics.jsonl:2: the line is torn")) << message;
}

TEST_F(RunFolder, MalformedLineIsDamagedAndNamed) {
  for (const char* bad : {"{", "[1]", "{}", R"({"kind":"step","step":1,"tokens":1,"loss":"x"})",
                          R"({"kind":"step","step":1,"tokens":1})",
                          R"({"kind":"validation","step":1,"tokens":1,"loss":1})", ""}) {
    const std::string path = run("a", fmt::format("{}\n{}\n", kStep, bad));
    const std::string message = message_of(path);
    EXPECT_TRUE(message.starts_with("3 " + path + "/metrics.jsonl:2")) << bad << ": " << message;
  }
}

TEST_F(RunFolder, FolderWithoutMetricsIsAUsageError) {
  EXPECT_TRUE(message_of(root_ + "/none").starts_with("2 "));
}

}  // namespace
}  // namespace osp
