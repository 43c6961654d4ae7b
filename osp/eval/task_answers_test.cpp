#include "osp/eval/task_answers.h"

#include <gtest/gtest.h>

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
