#include "osp/eval/task.h"

#include <gtest/gtest.h>

#include <functional>

#include "osp/base/sha256.h"
#include "osp/base/test_error.h"
#include "osp/base/test_folder.h"
#include "osp/eval/answer_text.h"
#include "osp/eval/task_answers.h"
#include "osp/eval/task_prompts.h"

namespace osp {
namespace {

using Texts = std::vector<std::string>;

TaskItem item_of(const std::string& task, const char* json, Prompts prompts = Prompts::reference) {
  return parse_tasks(task).front()->item({parse_json(json, "test"), "items.jsonl", 3}, prompts);
}

const char* const kArc =
    R"({"question":"Why?","choices":{"text":["sun","rain"],"label":["1","2"]},"answerKey":"2"})";
const char* const kCommonsense =
    R"({"question":"Where? ","choices":{"label":["A","B"],"text":["bank","mall"]},"answerKey":"B"})";
const char* const kHellaswag =
    R"({"activity_label":"Roof","ctx_a":"A man sits.","ctx_b":"he Now","endings":["goes [x] up.","is"],"label":"1"})";
const char* const kMmlu =
    R"({"subject":"high_school_physics","question":"How?","choices":["a","b","c","d"],"answer":2})";
const char* const kSiqa =
    R"({"context":"Tracy left.","question":"Why?","answerA":"a","answerB":"b","answerC":"c","label":"3"})";
const char* const kWinogrande =
    R"({"sentence":"Sarah beat Maria so _ won.","option1":"Sarah","option2":"Maria","answer":"1"})";

TEST(Task, PromptsOfTheReferenceAreAsWrittenByHand) {
  struct Case {
    const char *task, *json;
    std::string context;
    Texts choices;
    size_t answer;
  };
  const std::vector<Case> cases = {
      {"arc_easy", kArc, "Question: Why?\nAnswer:", {" sun", " rain"}, 1},
      {"commonsense_qa", kCommonsense, "Where? ", {" bank", " mall"}, 1},
      {"hellaswag", kHellaswag, "Roof: A man sits. He now ", {" goes up.", " is"}, 1},
      {"mmlu",
       kMmlu,
       "The following are questions about high school physics.\nQuestion: How?\nAnswer:",
       {" a", " b", " c", " d"},
       2},
      {"openbookqa",
       R"({"question_stem":"It is","choices":{"text":["x","y"],"label":["A","B"]},"answerKey":"A "})",
       "It is",
       {" x", " y"},
       0},
      {"piqa",
       R"({"goal":"Eat","sol1":"now","sol2":"later","label":1})",
       "Question: Eat\nAnswer:",
       {" now", " later"},
       1},
      {"siqa", kSiqa, "Tracy left. Why?", {" a", " b", " c"}, 2},
      {"winogrande", kWinogrande, "Sarah beat Maria so ", {"Sarah won.", "Maria won."}, 0},
  };
  for (const Case& each : cases) {
    const TaskItem item = item_of(each.task, each.json);
    EXPECT_EQ(item.contexts, Texts{each.context}) << each.task;
    EXPECT_EQ(item.choices, each.choices) << each.task;
    EXPECT_EQ(item.answer, each.answer) << each.task;
  }
}

TEST(Task, PromptsOfLmEvalAreAsWrittenByHand) {
  const auto context = [](const char* task, const char* json) {
    return item_of(task, json, Prompts::lm_eval).contexts.front();
  };
  EXPECT_EQ(context("commonsense_qa", kCommonsense), "Question: Where?\nA. bank\nB. mall\nAnswer:");
  EXPECT_EQ(context("hellaswag", kHellaswag), "Roof: A man sits. He now");
  EXPECT_EQ(context("siqa", kSiqa), "Q: Tracy left. Why?\nA:");
  EXPECT_EQ(context("mmlu", kMmlu),
            "The following are multiple choice questions (with answers) about high school "
            "physics.\n\nHow?\nA. a\nB. b\nC. c\nD. d\nAnswer:");
  const TaskItem item = item_of("winogrande", kWinogrande, Prompts::lm_eval);
  EXPECT_EQ(item.contexts, (Texts{"Sarah beat Maria so Sarah", "Sarah beat Maria so Maria"}));
  EXPECT_EQ(item.choices, (Texts{" won.", " won."}));
}

TEST(Task, GenerationTasksEndShotsWithTheirAnswer) {
  const TaskItem gsm8k = item_of("gsm8k", R"({"question":"1+1?","answer":"It is 2.\n#### 2"})");
  EXPECT_EQ(gsm8k.contexts, Texts{"Question: 1+1?\nAnswer:"});
  EXPECT_EQ(gsm8k.shot_answer, " It is 2.\n#### 2");
  // The reference's first alias, normalised and without a space in front.
  const TaskItem trivia =
      item_of("trivia_qa", R"({"question":"Who?","answer":{"aliases":["Phar Lap","Phar","Él"]}})");
  EXPECT_EQ(trivia.references, (Texts{"phar", "él"}));
  EXPECT_EQ(trivia.shot_answer, "phar");
}

TEST(Task, PreparedHellaSwagIsCapitalisedLikeTheHubs) {
  const TaskItem item =
      item_of("hellaswag", R"({"query":"Roof: A man sits. he Now","endings":["a","b"],"label":0})");
  EXPECT_EQ(item.contexts, Texts{"Roof: A man sits. He now "});
}

TEST(Task, BadRecordsNameFileAndLine) {
  struct Case {
    const char *task, *json, *part;
  };
  const std::vector<Case> cases = {
      {"arc_easy", R"({"query":"x"})", "no field \"choices\""},
      {"arc_easy", R"({"question":"x","choices":{"text":["a"],"label":["A","B"]},"answerKey":"A"})",
       "1 choices with 2 labels"},
      {"arc_easy", R"({"question":"x","choices":{"text":["a"],"label":["A"]},"answerKey":"C"})",
       "the labels are: A"},
      {"arc_easy", R"({"question":7,"choices":{"text":["a"],"label":["A"]},"answerKey":"A"})",
       "expected a string"},
      {"piqa", R"({"goal":"x","sol1":"a","sol2":"b","label":2})", "expected 0 to 1"},
      {"siqa", R"({"context_question":"x","answerA":"","answerB":"","answerC":"","label":"0"})",
       "expected 1 to 3"},
      {"hellaswag", R"({"query":"x","endings":"a","label":0})", "expected a list"},
      {"mmlu", R"({"columns":["q","a","b","c","d"]})", "5 columns"},
      {"mmlu", R"({"columns":["q","a","b","c","d","E"]})", "the labels are: A, B, C, D"},
      {"winogrande", R"({"sentence":"x","option1":"a","option2":"b","answer":"1"})", "one \"_\""},
      {"trivia_qa", R"({"question":"x","answer":{"aliases":[]}})", "is empty"},
      {"gsm8k", R"({"question":"x","answer":"2"})", "####"},
  };
  for (const Case& each : cases) {
    expect_error(ErrorCode::damaged, {"items.jsonl: line 3", each.part},
                 [&] { item_of(each.task, each.json); });
  }
}

TEST(Task, EmptyChoicesAndMissingFilesAreErrors) {
  const TestFolder folder;
  const auto load = [&] {
    load_task_prompts(folder / ".", *parse_tasks("piqa").front(), Prompts::reference, 0);
  };
  expect_error(ErrorCode::usage, {"validation", "piqa"}, load);
  folder.write("piqa/validation.jsonl",
               "\n"
               R"({"goal":"x","sol1":"a","sol2":" ","label":0})"
               "\n");
  expect_error(ErrorCode::damaged, {"validation.jsonl: line 2", "choice 2 is empty"}, load);
  folder.write("other/piqa/validation.jsonl", "{}\n");
  expect_error(ErrorCode::usage, {"more than once"}, load);
}

TEST(Task, UnknownNameListsTheKnownOnes) {
  expect_error(ErrorCode::usage, {"\"arc\"", "arc_easy", "perplexity"}, [] { parse_tasks("arc"); });
  EXPECT_EQ(parse_tasks("paper,piqa").size(), 11u);
}

TEST(Task, CsvKeepsQuotedCommasAndLines) {
  const TestFolder folder;
  const std::string file = folder.write("a_test.csv", "\"a \"\"b\"\",\nc\",d,\r\ne,f,g\n");
  std::vector<BenchRecord> records;
  read_csv(file, [&](BenchRecord record) {
    records.push_back(std::move(record));
    return true;
  });
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(strings_field(records[0], "columns"), (Texts{"a \"b\",\nc", "d", ""}));
  EXPECT_EQ(records[1].where(), file + ": line 3");
  folder.write("a_test.csv", "a\n\"b");
  expect_error(ErrorCode::damaged, {"line 2", "not closed"},
               [&] { read_csv(file, [](BenchRecord) { return true; }); });
}

TEST(AnswerText, QuasiExactMatchNormalisesAsTheReference) {
  const Texts names = {"phar lap"}, numbers = {"x #### 1,200"};
  EXPECT_TRUE(trivia_matches("  Phar-Lap", Texts{"pharlap"}));
  EXPECT_TRUE(trivia_matches(" Phar Lap!\n", names));
  EXPECT_FALSE(trivia_matches("The Phar Lap", names));
  EXPECT_FALSE(trivia_matches("", Texts{""}));
  EXPECT_TRUE(gsm8k_matches("so #### 1200 it is", numbers));
  EXPECT_FALSE(gsm8k_matches("so 1200", numbers));
  EXPECT_FALSE(gsm8k_matches("#### 1200.0", numbers));
  EXPECT_EQ(gsm8k_number("#### -3,000"), "-3000");
  EXPECT_EQ(gsm8k_number("#### x #### 4"), "4");
}

TEST(AnswerText, FollowsPythonsStrings) {
  EXPECT_EQ(stripped("\xC2\xA0 a\t\n"), "a");
  EXPECT_EQ(stripped("  "), "");
  EXPECT_EQ(trailing_space_bytes("a:\xC2\xA0 "), 3u);
  EXPECT_EQ(num_characters("é–a"), 3);
  EXPECT_EQ(capitalized("éTÉ Of"), "Été of");
  EXPECT_EQ(without_brackets("Cut [title] it [a\nb] [step]  up"),
            "Cut. it [a\nb]  up");  // three spaces become two, as with str.replace
}

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
