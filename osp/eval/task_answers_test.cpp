#include "osp/eval/task_answers.h"

#include <gtest/gtest.h>

#include <utility>

#include "osp/base/test_error.h"
#include "osp/eval/task_table.h"

namespace osp {
namespace {

TEST(TaskAnswers, MeanHasTheSampleStandardError) {
  // Python: statistics.stdev([1, 0, 0, 1]) / 2
  const Json mean = mean_json({1, 0, 0, 1});
  EXPECT_EQ(mean["value"], 0.5);
  EXPECT_NEAR(mean["standard_error"].get<double>(), 0.28867513459481287, 1e-15);
  EXPECT_EQ(mean_json({1.0})["standard_error"], 0.0);
}

TEST(TaskAnswers, NormalisesByCharactersAndBytesWithoutTheSpace) {
  TaskPrompts prompts{parse_tasks("piqa").front(), Prompts::reference, {}, "hash"};
  // 4 characters of 8 bytes against 5 of 5: per character −1.25 < −1.1, per byte −0.63 > −1.1.
  prompts.items.push_back({{"q"}, {" éééé", " abcde"}, 0, {}, {}});
  TaskAnswers answers;
  answers.items.push_back({{-5.0, -5.5}, ""});
  const Json result = task_result(prompts, answers);
  EXPECT_EQ(result["acc"]["value"], 1.0);
  EXPECT_EQ(result["acc_norm"]["value"], 0.0);
  EXPECT_EQ(result["acc_bytes"]["value"], 1.0);
  EXPECT_EQ(result["chance"], 0.5);
}

TEST(TaskAnswers, ArcCountsOnceInThePapersAverage) {
  Json tasks;
  for (const TaskDescription& task : benchmark_tasks()) tasks[task.name]["score"] = 0.5;
  tasks["arc_easy"]["score"] = 1.0;
  EXPECT_NEAR(paper_average(tasks)["value"].get<double>(), 0.525, 1e-15);
  tasks.erase("siqa");
  EXPECT_TRUE(paper_average(tasks).is_null());
}

// Items of two subjects: three of "a" (right, right, wrong) and one of "b" (wrong).
TaskPrompts two_subjects(Prompts which, TaskAnswers& answers) {
  TaskPrompts prompts{parse_tasks("mmlu").front(), which, {}, "hash"};
  for (const auto& [subject, right] : std::vector<std::pair<std::string, bool>>{
           {"a", true}, {"a", true}, {"b", false}, {"a", false}}) {
    prompts.items.push_back({.contexts = {"q"}, .choices = {" x", " y"}, .subject = subject});
    answers.items.push_back({{right ? -1.0 : -2.0, -1.5}, ""});
  }
  return prompts;
}

TEST(TaskAnswers, MmluIsTheUnweightedMeanOfItsSubjectsWithTheReferencesPrompts) {
  TaskAnswers answers;
  const TaskPrompts prompts = two_subjects(Prompts::reference, answers);
  const Json result = task_result(prompts, answers);
  EXPECT_NEAR(result["score"].get<double>(), (2.0 / 3 + 0.0) / 2, 1e-15);
  EXPECT_EQ(result["mean_over"], "subjects");
  EXPECT_EQ(result["acc_norm"]["value"], 0.5);
  // "a": s²/n = (2/3 · 1/3 · 3/2) / 3 = 1/9; "b", one item: s² of all = 1/3. √(1/9 + 1/3) / 2.
  EXPECT_NEAR(result["standard_error"].get<double>(), 1.0 / 3, 1e-15);
}

TEST(TaskAnswers, MmluIsTheMeanOfItsItemsWithLmEvalsPrompts) {
  TaskAnswers answers;
  const TaskPrompts prompts = two_subjects(Prompts::lm_eval, answers);
  const Json result = task_result(prompts, answers);
  EXPECT_EQ(result["score"], 0.5);
  EXPECT_EQ(result["mean_over"], "items");
}

TEST(TaskAnswers, ThePapersAverageSaysHowMmluIsWeightedAndWhatWasTruncated) {
  Json tasks;
  for (const TaskDescription& task : benchmark_tasks()) tasks[task.name] = {{"score", 0.5}};
  tasks["mmlu"] = {{"score", 0.25}, {"mean_over", "subjects"}, {"subjects", {{"a", 1}, {"b", 1}}}};
  tasks["gsm8k"]["cut"] = 7;
  const Json average = paper_average(tasks);
  EXPECT_NEAR(average["value"].get<double>(), 0.475, 1e-15);
  EXPECT_NE(
      average["formed"].get<std::string>().find("MMLU (the unweighted mean of its 2 subjects)"),
      std::string::npos);
  EXPECT_EQ(average["truncated"], Json({"gsm8k"}));
  tasks["mmlu"]["mean_over"] = "items";
  EXPECT_NE(paper_average(tasks)["formed"].get<std::string>().find("MMLU (the mean of its items)"),
            std::string::npos);
}

TEST(TaskAnswers, SurviveTheFileAndAreChecked) {
  TaskPrompts prompts{parse_tasks("piqa").front(), Prompts::reference, {}, "hash"};
  prompts.items.push_back({{"q"}, {" a", " b"}, 0, {}, {}});
  TaskAnswers answers;
  answers.items.push_back({{-1.0 / 3, -0.1}, ""});
  const Json json = answers_json(answers);
  EXPECT_EQ(parse_answers(json, prompts, "f").items[0].log_likelihoods,
            answers.items[0].log_likelihoods);
  prompts.items[0].choices.pop_back();
  expect_error(ErrorCode::damaged, {"f: answer 1"}, [&] { parse_answers(json, prompts, "f"); });
}

}  // namespace
}  // namespace osp
