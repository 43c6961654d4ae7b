#include "osp/eval/task_table.h"

#include <gtest/gtest.h>

#include "osp/base/test_error.h"

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

TEST(TaskTable, PromptsOfTheReferenceAreAsWrittenByHand) {
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

TEST(TaskTable, PromptsOfLmEvalAreAsWrittenByHand) {
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

TEST(TaskTable, GenerationTasksEndShotsWithTheirAnswer) {
  const TaskItem gsm8k = item_of("gsm8k", R"({"question":"1+1?","answer":"It is 2.\n#### 2"})");
  EXPECT_EQ(gsm8k.contexts, Texts{"Question: 1+1?\nAnswer:"});
  EXPECT_EQ(gsm8k.shot_answer, " It is 2.\n#### 2");
  // The reference's first alias, normalised and without a space in front.
  const TaskItem trivia =
      item_of("trivia_qa", R"({"question":"Who?","answer":{"aliases":["Phar Lap","Phar","Él"]}})");
  EXPECT_EQ(trivia.references, (Texts{"phar", "él"}));
  EXPECT_EQ(trivia.shot_answer, "phar");
}

TEST(TaskTable, PreparedHellaSwagIsCapitalisedLikeTheHubs) {
  const TaskItem item =
      item_of("hellaswag", R"({"query":"Roof: A man sits. he Now","endings":["a","b"],"label":0})");
  EXPECT_EQ(item.contexts, Texts{"Roof: A man sits. He now "});
}

TEST(TaskTable, BadRecordsNameFileAndLine) {
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

}  // namespace
}  // namespace osp
