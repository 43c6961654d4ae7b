#include "osp/eval/task_results.h"

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/base/version.h"
#include "osp/ops/result_origin.h"

namespace osp {
namespace {

Json* find_by(Json& list, const std::string& key, const std::string& value) {
  const Json written = as_written(value);
  for (Json& element : list) {
    if (element.contains(key) && as_written(element[key]) == written) return &element;
  }
  return nullptr;
}

std::string unfinished_name(const std::string& model, const std::string& bits,
                            const TaskPrompts& prompts) {
  return as_written(model + " " + bits + " " + prompts.task->name).get<std::string>();
}

void check_prompts(const Json& entry, const TaskPrompts& prompts, const std::string& path) {
  if (json_string(entry, "prompts_sha256", path) == prompts.sha256) return;
  fail(ErrorCode::usage,
       "{}: {} was begun with other prompts (the data have changed since); begin again with --out "
       "and another file",
       path, prompts.task->name);
}

}  // namespace

TaskResults::TaskResults(const TaskResultsHeader& header, const std::string& path)
    : path_(path),
      json_({{"prompts", header.prompts},
             {"data", header.data},
             {"limit", header.limit},
             {"precision", header.precision},
             {"models", Json::array()}}) {
  record_origin(json_);
}

TaskResults TaskResults::resume(const TaskResultsHeader& header, const std::string& path) {
  TaskResults results(header, path);
  Json json = read_json_file(path);
  if (!json.is_object() || !json.contains("models") || !json["models"].is_array()) {
    fail(ErrorCode::damaged, "{}: no results of osp eval; expected an object with \"models\"",
         path);
  }
  const auto demand = [&](const std::string& key, const std::string& found,
                          const std::string& wanted) {
    if (found == wanted) return;
    fail(ErrorCode::usage, "{}: made with {} {}, this is {}; begin again with --out", path, key,
         found, wanted);
  };
  demand("version", json_string(json, "version", path), kVersion);
  demand("--prompts", json_string(json, "prompts", path), header.prompts);
  demand("--limit", std::to_string(json_int(json, "limit", path)), std::to_string(header.limit));
  demand("--precision", json.value("precision", "fp32"), header.precision);
  for (const Json& model : json["models"]) {
    json_string(model, "model", path);
    json_int(model, "parameters", path);
    if (!model.contains("results") || !model["results"].is_array()) {
      fail(ErrorCode::damaged, "{}: a model without \"results\"", path);
    }
  }
  results.json_ = std::move(json);
  return results;
}

void TaskResults::add_model(const std::string& model, int64_t parameters, int64_t tokens,
                            const std::string& rounded_before) {
  if (const Json* known = find_by(json_["models"], "model", model)) {
    const int64_t before = json_int(*known, "parameters", path_);
    if (before == parameters) return;
    fail(ErrorCode::usage, "{}: {} had {} parameters, it has {} now; begin again with --out", path_,
         model, before, parameters);
  }
  json_["models"].push_back({{"model", model},
                             {"parameters", parameters},
                             {"tokens", tokens > 0 ? Json(tokens) : Json(nullptr)},
                             {"results", Json::array()}});
  if (!rounded_before.empty()) json_["models"].back()["rounded_before"] = rounded_before;
}

Json& TaskResults::widths(const std::string& model, const std::string& bits) {
  Json* found = find_by(json_["models"], "model", model);
  OSP_CHECK(found != nullptr, "model {} was not added", model);
  Json& results = (*found)["results"];
  if (Json* known = find_by(results, "bits", bits)) return *known;
  results.push_back({{"bits", bits}, {"tasks", Json::object()}, {"average", nullptr}});
  return results.back();
}

bool TaskResults::finished(const std::string& model, const std::string& bits,
                           const TaskPrompts& prompts) {
  const Json& tasks = widths(model, bits)["tasks"];
  if (!tasks.contains(prompts.task->name)) return false;
  check_prompts(tasks[prompts.task->name], prompts, path_);
  return true;
}

TaskAnswers TaskResults::answers(const std::string& model, const std::string& bits,
                                 const TaskPrompts& prompts) const {
  const std::string name = unfinished_name(model, bits, prompts);
  if (!json_.contains("unfinished") || !json_["unfinished"].contains(name)) return {};
  const Json& entry = json_["unfinished"][name];
  check_prompts(entry, prompts, path_);
  return parse_answers(entry, prompts, path_);
}

void TaskResults::keep(const std::string& model, const std::string& bits,
                       const TaskPrompts& prompts, const TaskAnswers& answers) {
  Json entry = answers_json(answers);
  entry["prompts_sha256"] = prompts.sha256;
  json_["unfinished"][unfinished_name(model, bits, prompts)] = std::move(entry);
  save();
}

void TaskResults::finish(const std::string& model, const std::string& bits,
                         const TaskPrompts& prompts, const TaskAnswers& answers) {
  Json& at = widths(model, bits);
  at["tasks"][prompts.task->name] = task_result(prompts, answers);
  at["average"] = paper_average(at["tasks"]);
  if (json_.contains("unfinished")) {
    json_["unfinished"].erase(unfinished_name(model, bits, prompts));
    if (json_["unfinished"].empty()) json_.erase("unfinished");
  }
  save();
}

void TaskResults::save() const {
  if (!path_.empty()) write_file_atomic(path_, json_text(json_, 1) + "\n");
}

}  // namespace osp
