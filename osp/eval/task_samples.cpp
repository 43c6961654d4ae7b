#include "osp/eval/task_samples.h"

#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/file.h"

namespace osp {
namespace {

std::string name_of(const std::string& model, const std::string& bits, const std::string& task) {
  return model + " " + bits + " " + task;
}

void add_choices(Json& json, const TaskItem& item, const TaskAnswers::Item& answer) {
  if (item.contexts.size() == 1) {
    json["context"] = item.contexts.front();
  } else {
    json["contexts"] = item.contexts;
  }
  json["choices"] = item.choices;
  json["log_likelihoods"] = answer.log_likelihoods;
  json["answer"] = item.answer;
}

void add_generation(Json& json, const TaskPrompts& prompts, const TaskItem& item,
                    const TaskAnswers::Item& answer) {
  json["context"] = item.contexts.front();
  json["stop"] = prompts.task->stops(prompts.prompts);
  json["max_tokens"] = prompts.task->max_tokens;
  json["text"] = answer.text;
  json["references"] = item.references;
}

}  // namespace

Json sample_json(const std::string& model, const std::string& bits, const TaskPrompts& prompts,
                 const TaskAnswers& answers, size_t index) {
  const TaskItem& item = prompts.items[index];
  const TaskAnswers::Item& answer = answers.items[index];
  const ItemMarks marks = marks_of(*prompts.task, prompts.prompts, item, answer);
  Json json = {{"model", model}, {"bits", bits}, {"task", prompts.task->name}, {"index", index}};
  if (!item.subject.empty()) json["subject"] = item.subject;
  if (prompts.task->generates()) {
    add_generation(json, prompts, item, answer);
    json["correct"] = marks.exact_match;
  } else {
    add_choices(json, item, answer);
    json["acc"] = marks.acc;
    json["acc_norm"] = marks.acc_norm;
    json["acc_bytes"] = marks.acc_bytes;
    json["correct"] = marks.acc_norm;
  }
  return json;
}

SampleFile::SampleFile(const std::string& path, bool resume) : path_(path) {
  if (resume && path_exists(path)) count_lines();
  const auto mode = counts_.empty() ? std::ios::trunc : std::ios::app;
  file_.open(path, std::ios::out | std::ios::binary | mode);
  if (!file_) fail(ErrorCode::io, "{}: cannot be written", path);
}

void SampleFile::count_lines() {
  std::ifstream file(path_, std::ios::binary);
  uint64_t whole = 0;  // bytes of the complete lines
  std::string line;
  for (int64_t number = 1; std::getline(file, line) && !file.eof(); ++number) {
    const std::string at = fmt::format("{} line {}", path_, number);
    const Json json = parse_json(line, at);
    if (!json.is_object()) fail(ErrorCode::damaged, "{}: not a JSON object", at);
    size_t& count = counts_[name_of(json_string(json, "model", at), json_string(json, "bits", at),
                                    json_string(json, "task", at))];
    const int64_t index = json_int(json, "index", at);
    if (index != static_cast<int64_t>(count)) {
      fail(ErrorCode::damaged, "{}: \"index\" is {}, expected {}", at, index, count);
    }
    ++count;
    whole += line.size() + 1;
  }
  if (file.bad()) fail(ErrorCode::io, "{}: cannot be read", path_);
  file.close();
  std::filesystem::resize_file(path_, whole);
}

void SampleFile::write(const std::string& model, const std::string& bits,
                       const TaskPrompts& prompts, const TaskAnswers& answers) {
  size_t& count = counts_[name_of(model, bits, prompts.task->name)];
  for (; count < answers.items.size(); ++count) {
    file_ << sample_json(model, bits, prompts, answers, count)
                 .dump(-1, ' ', false, Json::error_handler_t::replace)
          << '\n';
  }
  file_.flush();
  if (!file_) fail(ErrorCode::io, "{}: cannot be written (is the disk full?)", path_);
}

void SampleFile::check_finished(const std::string& model, const std::string& bits,
                                const TaskPrompts& prompts) const {
  const auto found = counts_.find(name_of(model, bits, prompts.task->name));
  const size_t count = found == counts_.end() ? 0 : found->second;
  if (count == prompts.items.size()) return;
  fail(ErrorCode::usage,
       "{}: has {} of {} items of {} {} {}, which is finished; begin again with --out", path_,
       count, prompts.items.size(), model, bits, prompts.task->name);
}

}  // namespace osp
