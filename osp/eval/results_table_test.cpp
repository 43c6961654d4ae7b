#include "osp/eval/results_table.h"

#include <gtest/gtest.h>

#include "osp/eval/task_answers.h"
#include "osp/eval/task_table.h"

namespace osp {
namespace {

// A model with all of the paper's tasks at one width; gsm8k's prompts are truncated.
Json document_with_truncation() {
  Json tasks;
  for (const TaskDescription& task : benchmark_tasks()) {
    tasks[task.name] = {{"score", 0.25}, {"standard_error", 0.1}, {"n", 40}, {"shots", task.shots},
                        {"cut", 0},      {"seconds", 1.0}};
  }
  tasks["gsm8k"]["cut"] = 7;
  const Json average = paper_average(tasks);
  const Json result = {{"bits", "16-16-16"}, {"tasks", tasks}, {"average", average}};
  return {{"models",
           {{{"model", "m"}, {"parameters", 5}, {"tokens", nullptr}, {"results", {result}}}}}};
}

int count(const std::string& text, const std::string& part) {
  int found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(ResultsTable, TruncatedShotsAreMarkedForPeople) {
  const std::string text = results_text(document_with_truncation());
  EXPECT_EQ(count(text, "25.0*"), 2) << text;  // gsm8k and the average
  EXPECT_EQ(count(text,
                  "  * 7 of 40 prompts truncated on the left to fit the context: fewer than 8 "
                  "shots\n"),
            1)
      << text;
}

TEST(ResultsTable, TruncatedShotsAreMarkedInMarkdown) {
  const std::string text = results_markdown(document_with_truncation());
  EXPECT_EQ(count(text, "| 25.0* |"), 2) << text;
  EXPECT_EQ(count(text,
                  "\n\\* m: prompts truncated on the left to fit the context: 7 of gsm8k at "
                  "16-16-16.\n"),
            1)
      << text;
  Json whole = document_with_truncation();
  whole["models"][0]["results"][0]["tasks"]["gsm8k"]["cut"] = 0;
  EXPECT_EQ(count(results_markdown(whole), "*"), 0);
}

TEST(ResultsTable, TruncatedShotsHaveAColumnInCsvAndScoresStayNumbers) {
  const std::string text = results_csv(document_with_truncation());
  EXPECT_EQ(count(text, "*"), 0) << text;
  EXPECT_EQ(count(text, "average at 16-16-16,truncated prompts\n"), 1) << text;
  EXPECT_EQ(count(text, "25.0,7 of gsm8k at 16-16-16\n"), 1) << text;
}

}  // namespace
}  // namespace osp
