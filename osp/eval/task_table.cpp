#include "osp/eval/task_table.h"

#include <algorithm>
#include <filesystem>

#include "osp/base/error.h"
#include "osp/eval/answer_text.h"

namespace osp {
namespace {

constexpr std::string_view kLetters = "ABCDEFGH";

// Choices with a space in front, as they follow "Answer:".
std::vector<std::string> spaced(const std::vector<std::string>& texts) {
  std::vector<std::string> choices;
  for (const std::string& text : texts) choices.push_back(" " + text);
  return choices;
}

std::string question(const std::string& text) { return "Question: " + text + "\nAnswer:"; }

// "A. one\nB. two\n"
std::string lettered(const std::vector<std::string>& texts) {
  std::string list;
  for (size_t i = 0; i < texts.size(); ++i) list += fmt::format("{}. {}\n", kLetters[i], texts[i]);
  return list;
}

std::vector<std::string> letters(size_t count) {
  std::vector<std::string> result;
  for (size_t i = 0; i < count; ++i) result.emplace_back(1, kLetters[i]);
  return result;
}

std::vector<std::string> letters_of(const BenchmarkRecord& record,
                                    const std::vector<std::string>& texts) {
  if (texts.size() > kLetters.size()) {
    fail(ErrorCode::damaged, "{}: {} choices; expected at most {}", record.where(), texts.size(),
         kLetters.size());
  }
  return spaced(letters(texts.size()));
}

// {"choices": {"text": […], "label": […]}, "answerKey": …} of ARC, CommonsenseQA and OpenBookQA.
struct LabelledChoices {
  std::vector<std::string> texts;
  size_t answer;
};

LabelledChoices labelled_choices(const BenchmarkRecord& record) {
  const auto labels = strings_field(record, "choices", "label");
  LabelledChoices result{strings_field(record, "choices", "text"), 0};
  if (labels.size() != result.texts.size()) {
    fail(ErrorCode::damaged, "{}: {} choices with {} labels; expected as many", record.where(),
         result.texts.size(), labels.size());
  }
  result.answer =
      label_index(record, "answerKey", stripped(string_field(record, "answerKey")), labels);
  return result;
}

TaskItem arc(const BenchmarkRecord& record, Prompts) {
  const auto [texts, answer] = labelled_choices(record);
  return {.contexts = {question(string_field(record, "question"))},
          .choices = spaced(texts),
          .answer = answer};
}

TaskItem commonsense_qa(const BenchmarkRecord& record, Prompts prompts) {
  const auto [texts, answer] = labelled_choices(record);
  const std::string text = string_field(record, "question");
  if (prompts == Prompts::reference) {
    return {.contexts = {text}, .choices = spaced(texts), .answer = answer};
  }
  return {.contexts = {"Question: " + stripped(text) + "\n" + lettered(texts) + "Answer:"},
          .choices = letters_of(record, texts),
          .answer = answer};
}

TaskItem openbookqa(const BenchmarkRecord& record, Prompts) {
  const auto [texts, answer] = labelled_choices(record);
  return {.contexts = {string_field(record, "question_stem")},
          .choices = spaced(texts),
          .answer = answer};
}

// The hub has ctx_a, ctx_b and activity_label; a prepared file has "query", where ctx_b is not yet
// capitalised: the fragment after the last ". " that begins with a small letter.
std::string hellaswag_query(const BenchmarkRecord& record) {
  if (has_field(record, "ctx_a")) {
    return string_field(record, "activity_label") + ": " + string_field(record, "ctx_a") + " " +
           capitalized(string_field(record, "ctx_b"));
  }
  std::string query = string_field(record, "query");
  const size_t last = query.rfind(". ");
  if (last == std::string::npos || last + 2 >= query.size()) return query;
  const std::string fragment = query.substr(last + 2);
  if (fragment[0] < 'a' || fragment[0] > 'z') return query;
  return query.substr(0, last + 2) + capitalized(fragment);
}

// The reference leaves a space at the end of the context, which moves to the choices in addition to
// their own.
TaskItem hellaswag(const BenchmarkRecord& record, Prompts prompts) {
  const bool lm_eval = prompts == Prompts::lm_eval;
  const auto cleaned = [&](const std::string& text) {
    return without_brackets(lm_eval ? stripped(text) : text);
  };
  std::vector<std::string> endings = strings_field(record, "endings");
  for (std::string& ending : endings) ending = cleaned(ending);
  const std::string query = hellaswag_query(record);
  const size_t answer =
      checked_label(record, "label", number_field(record, "label"), 0, endings.size());
  return {.contexts = {cleaned(lm_eval ? query : query + " ")},
          .choices = spaced(endings),
          .answer = answer};
}

// The hub's {subject, question, choices, answer: index}, or the original CSV (question, four
// choices, letter) in a file named SUBJECT_test.csv.
TaskItem mmlu(const BenchmarkRecord& record, Prompts prompts) {
  std::string subject, text;
  std::vector<std::string> choices;
  size_t answer = 0;
  // Read the record in either layout.
  if (has_field(record, "columns")) {
    const auto columns = strings_field(record, "columns");
    if (columns.size() != 6) {
      fail(ErrorCode::damaged,
           "{}: {} columns; expected 6 (question, four choices, letter of the answer)",
           record.where(), columns.size());
    }
    subject = std::filesystem::path(record.file).stem().string();
    subject = subject.substr(0, subject.rfind('_'));
    text = columns[0];
    choices = {columns.begin() + 1, columns.end() - 1};
    answer = label_index(record, "answer", columns[5], letters(4));
  } else {
    subject = string_field(record, "subject");
    text = string_field(record, "question");
    choices = strings_field(record, "choices");
    answer = checked_label(record, "answer", number_field(record, "answer"), 0, choices.size());
  }
  // Write the prompt.
  const std::string words = replaced(subject, "_", " ");
  if (prompts == Prompts::reference) {
    return {.contexts = {"The following are questions about " + words + ".\n" + question(text)},
            .choices = spaced(choices),
            .answer = answer,
            .subject = subject};
  }
  return {.contexts = {"The following are multiple choice questions (with answers) about " + words +
                       ".\n\n" + stripped(text) + "\n" + lettered(choices) + "Answer:"},
          .choices = letters_of(record, choices),
          .answer = answer,
          .subject = subject};
}

TaskItem piqa(const BenchmarkRecord& record, Prompts) {
  const size_t answer = checked_label(record, "label", number_field(record, "label"), 0, 2);
  return {.contexts = {question(string_field(record, "goal"))},
          .choices = spaced({string_field(record, "sol1"), string_field(record, "sol2")}),
          .answer = answer};
}

TaskItem siqa(const BenchmarkRecord& record, Prompts prompts) {
  const std::string text =
      has_field(record, "context_question")
          ? string_field(record, "context_question")
          : string_field(record, "context") + " " + string_field(record, "question");
  const size_t answer = checked_label(record, "label", number_field(record, "label"), 1, 3);
  return {.contexts = {prompts == Prompts::reference ? text : "Q: " + text + "\nA:"},
          .choices = spaced({string_field(record, "answerA"), string_field(record, "answerB"),
                             string_field(record, "answerC")}),
          .answer = answer};
}

// The reference scores option and end after the common beginning; lm-eval scores the common end
// after each beginning with its option.
TaskItem winogrande(const BenchmarkRecord& record, Prompts prompts) {
  const std::string sentence = string_field(record, "sentence");
  const size_t blank = sentence.find('_');
  if (blank == std::string::npos || sentence.find('_', blank + 1) != std::string::npos) {
    fail(ErrorCode::damaged, "{}: field \"sentence\" must have one \"_\" where the options go",
         record.where());
  }
  const std::string begin = sentence.substr(0, blank);
  const std::string end = stripped(sentence.substr(blank + 1));
  const std::string one = string_field(record, "option1"), two = string_field(record, "option2");
  const size_t answer = checked_label(record, "answer", number_field(record, "answer"), 1, 2);
  if (prompts == Prompts::reference) {
    return {.contexts = {begin}, .choices = {one + " " + end, two + " " + end}, .answer = answer};
  }
  return {.contexts = {begin + one, begin + two}, .choices = spaced({end, end}), .answer = answer};
}

TaskItem trivia_qa(const BenchmarkRecord& record, Prompts prompts) {
  std::string text = string_field(record, "question");
  const auto aliases = strings_field(record, "answer", "aliases");
  if (aliases.empty()) {
    fail(ErrorCode::damaged, "{}: field \"answer.aliases\" is empty", record.where());
  }
  if (prompts == Prompts::lm_eval) {
    std::vector<std::string> references;
    for (const std::string& alias : aliases) references.push_back(trivia_normalized(alias));
    return {.contexts = {question(text + "?")},
            .references = references,
            .shot_answer = " " + aliases.front()};
  }
  const auto references = trivia_references(aliases);
  return {
      .contexts = {question(text)}, .references = references, .shot_answer = references.front()};
}

TaskItem gsm8k(const BenchmarkRecord& record, Prompts) {
  const std::string answer = string_field(record, "answer");
  if (gsm8k_number(answer) == "[invalid]") {
    fail(ErrorCode::damaged, "{}: field \"answer\" has no \"#### NUMBER\" at its end",
         record.where());
  }
  return {.contexts = {question(string_field(record, "question"))},
          .references = {answer},
          .shot_answer = " " + answer};
}

}  // namespace

const std::vector<TaskDescription>& benchmark_tasks() {
  static const std::vector<std::string> kLabelled = {"question", "choices", "answerKey"};
  static const std::vector<TaskDescription> kTasks = {
      {.name = "arc_easy",
       .paper_weight = 0.5,
       .place = {.folders = {"arc_easy"}, .fields = kLabelled},
       .splits = {"test"},
       .item = arc},
      {.name = "arc_challenge",
       .paper_weight = 0.5,
       .place = {.folders = {"arc_challenge"}, .fields = kLabelled},
       .splits = {"test"},
       .item = arc},
      {.name = "commonsense_qa",
       .paper_weight = 1,
       .place = {.folders = {"commonsense_qa"}, .fields = kLabelled},
       .splits = {"validation"},
       .item = commonsense_qa},
      {.name = "gsm8k",
       .paper_weight = 1,
       .place = {.folders = {"gsm8k"}, .config = "main", .fields = {"question", "answer"}},
       .splits = {"test"},
       .shot_splits = {"train"},
       .shots = 8,
       .max_tokens = 256,
       .stop = {"Question"},
       .stop_lm_eval = {"Question:", "</s>", "<|im_end|>"},
       .item = gsm8k,
       .matches = gsm8k_matches,
       .matches_lm_eval = gsm8k_matches_lm_eval},
      {.name = "hellaswag",
       .paper_weight = 1,
       .place = {.folders = {"hellaswag"},
                 .fields = {"activity_label", "ctx_a", "ctx_b", "endings", "label"}},
       .splits = {"validation"},
       .item = hellaswag},
      {.name = "mmlu",
       .paper_weight = 1,
       .place = {.folders = {"mmlu"},
                 .config = "all",
                 .fields = {"question", "subject", "choices", "answer"},
                 .many_folders = true},
       .splits = {"test"},
       .item = mmlu},
      {.name = "openbookqa",
       .paper_weight = 1,
       .place = {.folders = {"openbookqa"},
                 .config = "main",
                 .fields = {"question_stem", "choices", "answerKey"}},
       .splits = {"test"},
       .item = openbookqa},
      {.name = "piqa",
       .paper_weight = 1,
       .place = {.folders = {"piqa"},
                 .config = "plain_text",
                 .fields = {"goal", "sol1", "sol2", "label"}},
       .splits = {"validation"},
       .item = piqa},
      {.name = "siqa",
       .paper_weight = 1,
       .place = {.folders = {"siqa", "social_i_qa"},
                 .fields = {"context", "question", "answerA", "answerB", "answerC", "label"}},
       .splits = {"validation"},
       .item = siqa},
      {.name = "trivia_qa",
       .paper_weight = 1,
       .place = {.folders = {"trivia_qa"},
                 .config = "rc.nocontext",
                 .fields = {"question", "answer"}},
       .splits = {"sample500", "validation"},
       .shot_splits = {"sample500b", "train"},
       .shots = 5,
       .max_tokens = 20,
       .stop = {"Question"},
       .stop_lm_eval = {"\n", ".", ","},
       .item = trivia_qa,
       .matches = trivia_matches},
      {.name = "winogrande",
       .paper_weight = 1,
       .place = {.folders = {"winogrande"},
                 .config = "winogrande_xl",
                 .fields = {"sentence", "option1", "option2", "answer"}},
       .splits = {"validation"},
       .item = winogrande},
  };
  return kTasks;
}

}  // namespace osp
