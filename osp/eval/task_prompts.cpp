#include "osp/eval/task_prompts.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/sha256.h"
#include "osp/eval/answer_text.h"

namespace osp {
namespace {

constexpr const char* kBetweenShots = "\n\n";

// Keeps `limit` records at equal distances; all of them for 0.
void spread(std::vector<BenchmarkRecord>& records, int64_t limit) {
  const auto total = static_cast<int64_t>(records.size());
  if (limit == 0 || total <= limit) return;
  std::vector<BenchmarkRecord> kept;
  for (int64_t i = 0; i < limit; ++i) {
    kept.push_back(std::move(records[static_cast<size_t>(i * total / limit)]));
  }
  records = std::move(kept);
}

std::vector<BenchmarkRecord> scored_records(const std::string& root, const TaskDescription& task,
                                            int64_t limit) {
  const auto files = find_benchmark_files(root, task.place, task.splits);
  if (!task.place.many_folders) return read_benchmark_files(files, task.place.fields, limit);
  std::vector<BenchmarkRecord> records = read_benchmark_files(files, task.place.fields, 0);
  spread(records, limit);
  return records;
}

// The text of the shots, in front of every item.
std::string shots_text(const std::string& root, const TaskDescription& task, Prompts prompts) {
  if (task.shots == 0) return "";
  const auto files = find_benchmark_files(root, task.place, task.shot_splits);
  const auto records = read_benchmark_files(files, task.place.fields, task.shots);
  if (static_cast<int64_t>(records.size()) < task.shots) {
    fail(ErrorCode::damaged, "{}: {} records; {} needs {} for its shots", files.front(),
         records.size(), task.name, task.shots);
  }
  std::string text;
  for (const BenchmarkRecord& record : records) {
    const TaskItem item = task.item(record, prompts);
    text += item.contexts.front() + item.shot_answer + kBetweenShots;
  }
  return text;
}

void check_item(const TaskDescription& task, const TaskItem& item, const BenchmarkRecord& record) {
  if (task.generates()) return;
  if (item.choices.size() < 2) {
    fail(ErrorCode::damaged, "{}: {} choices; expected at least two", record.where(),
         item.choices.size());
  }
  for (size_t i = 0; i < item.choices.size(); ++i) {
    if (stripped(item.choices[i]).empty()) {
      fail(ErrorCode::damaged, "{}: choice {} is empty", record.where(), i + 1);
    }
  }
}

}  // namespace

TaskPrompts load_task_prompts(const std::string& root, const TaskDescription& task, Prompts prompts,
                              int64_t limit) {
  TaskPrompts result{&task, prompts, {}, ""};
  const std::string shots = shots_text(root, task, prompts);
  Sha256 hash;
  const auto add_to_hash = [&](const std::string& text) {
    hash.update(text.c_str(), text.size() + 1);
  };
  for (const BenchmarkRecord& record : scored_records(root, task, limit)) {
    TaskItem item = task.item(record, prompts);
    check_item(task, item, record);
    for (std::string& context : item.contexts) {
      context = shots + context;
      add_to_hash(context);
    }
    for (const std::string& choice : item.choices) add_to_hash(choice);
    result.items.push_back(std::move(item));
  }
  result.sha256 = hash.hex();
  return result;
}

std::vector<ChoiceRequest> choice_requests(const PromptEncoder& encoder, const TaskItem& item) {
  if (item.contexts.size() == 1) return {encoder.choices(item.contexts.front(), item.choices)};
  std::vector<ChoiceRequest> requests;
  for (size_t i = 0; i < item.choices.size(); ++i) {
    requests.push_back(encoder.choices(item.contexts[i], {&item.choices[i], 1}));
  }
  return requests;
}

}  // namespace osp
