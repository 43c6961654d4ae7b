#include "osp/report/results.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/base/provenance.h"
#include "osp/report/html.h"
#include "osp/report/json_fields.h"
#include "osp/report/read_analysis.h"

namespace osp {
namespace {

// One task of one result: {"score", "standard_error", "metric", "chance", "n", …}.
TaskResult read_task(const std::string& name, const Json& item, const std::string& where) {
  const std::string place = fmt::format("{}: task \"{}\"", where, shorten(name, 60));
  if (!item.is_object()) {
    fail(ErrorCode::damaged, "{} holds {}, expected an object", place, item.type_name());
  }
  TaskResult task{.task = name,
                  .metric = string_or_empty(item, "metric", place),
                  .value = number_or_nan(item, "score", place, Presence::required),
                  .standard_error = number_or_nan(item, "standard_error", place),
                  .chance = number_or_nan(item, "chance", place),
                  .items = number_or_nan(item, "n", place),
                  .cut = static_cast<double>(int_or(item, "cut", 0, place))};
  if (!has_value(item, "subjects")) return task;
  for (const auto& [subject, score] : object_member(item, "subjects", place).items()) {
    if (!score.is_object()) {
      fail(ErrorCode::damaged, "{}: a subject holds {}, expected an object", place,
           score.type_name());
    }
    task.subjects.push_back({subject, number_or_nan(score, "n", place),
                             number_or_nan(score, "acc_norm", place, Presence::required)});
  }
  return task;
}

// The data that a result of osp eval was measured on; `file` holds what all its results share.
Measurement read_measurement(const Json& item, const Json& file, const std::string& where) {
  Measurement at{.text = string_or_empty(file, "data", where),
                 .tokens = int_or(item, "tokens", 0, where),
                 .window = int_or(item, "window", 0, where),
                 .file = where};
  at.stride = int_or(item, "stride", at.window, where);
  for (const auto& [key, what] : {std::pair{"activation_group", "inputs of linear layers"},
                                  std::pair{"down_group", "inputs of down projections"}}) {
    const int64_t size = int_or(file, key, 0, where);
    if (size > 0) at.settings += fmt::format("; {} in groups of {}", what, size);
  }
  if (has_value(item, "tasks")) {
    at.benchmarks = true;
    at.settings = fmt::format("{}; first {}", string_or_empty(file, "prompts", where),
                              int_or(file, "limit", 0, where));
  }
  const std::string precision = string_or_empty(file, "precision", where);
  if (!precision.empty() && precision != "fp32") at.settings += "; " + precision;
  return at;
}

EvalResult read_eval_result(const Json& item, const Json& file, const std::string& where) {
  EvalResult result{.bits = json_string(item, "bits", where)};
  const bool benchmarks = has_value(item, "tasks");
  result.at = read_measurement(item, file, where);
  result.perplexity = number_or_nan(item, "perplexity", where,
                                    benchmarks ? Presence::optional : Presence::required);
  if (!benchmarks) return result;
  for (const auto& [name, task] : object_member(item, "tasks", where).items()) {
    result.tasks.push_back(read_task(name, task, where));
  }
  if (has_value(item, "average")) {
    result.average = number_or_nan(object_member(item, "average", where), "value", where);
  }
  return result;
}

// The output of osp eval for one model: perplexities, or the entry of one model of benchmarks.
ModelResults read_evaluation(const Json& model_json, const Json& file, const std::string& where) {
  ModelResults model{.model = string_or_empty(model_json, "model", where),
                     .rounded_before = string_or_empty(model_json, "rounded_before", where)};
  std::string bits, tasks;
  for (const Json& item : objects_member(model_json, "results", where)) {
    model.evaluation.push_back(read_eval_result(item, file, where));
    const EvalResult& result = model.evaluation.back();
    bits += (bits.empty() ? "" : ",") + result.bits;
    if (!tasks.empty()) continue;
    for (const TaskResult& task : result.tasks) tasks += (tasks.empty() ? "" : ",") + task.task;
  }
  const std::string task_option = tasks.empty() ? "" : " --tasks " + shell_word(tasks);
  model.sources.push_back(source_of(
      file, {"data"},
      fmt::format("osp eval {}{} --data {} --bits {} --json > {}",
                  source_word(model_json, "model", "MODEL"), task_option,
                  source_word(file, "data", "DATA"), shell_word(bits), shell_word(where))));
  return model;
}

std::vector<ModelResults> read_evaluations(const Json& file, const std::string& where) {
  if (!file.contains("models")) return {read_evaluation(file, file, where)};
  std::vector<ModelResults> models;
  for (const Json& item : objects_member(file, "models", where)) {
    models.push_back(read_evaluation(item, file, where));
  }
  return models;
}

std::vector<LayerNoise> read_layers(const Json& report, const std::string& where) {
  std::vector<LayerNoise> layers;
  for (const Json& item : objects_member(report, "layers", where)) {
    layers.push_back({json_string(item, "name", where), number_or_nan(item, "sqnr_db", where),
                      number_or_nan(item, "relative_output_error", where)});
  }
  return layers;
}

// The report of one quantization: quantize.json, or a run of `osp quantize --report --json`.
QuantizedResult read_quantization(const Json& report, const std::string& where) {
  const Json& settings = object_member(report, "settings", where);
  return {.method = json_string(settings, "method", where),
          .bits = json_string(settings, "bits", where),
          .layers = read_layers(report, where)};
}

// The perplexities of one run of osp quantize, and what they were measured on.
void read_measured(const Json& measured, const std::string& text, const std::string& where,
                   QuantizedResult& result) {
  result.perplexity_16 = number_or_nan(measured, "perplexity_16", where);
  result.perplexity = number_or_nan(measured, "perplexity", where, Presence::required);
  result.divergence = number_or_nan(measured, "kl_divergence", where);
  result.same_choice = number_or_nan(measured, "same_choice", where);
  result.at = {.text = text,
               .tokens = int_or(measured, "tokens", 0, where),
               .window = int_or(measured, "window", 0, where),
               .file = where};
  result.at.stride = result.at.window;
}

// The text that osp quantize measured on: files of older versions name it only in their options.
std::string measured_text(const Json& file, const std::string& where) {
  if (has_value(file, "data")) return json_string(file, "data", where);
  if (!has_value(file, "call")) return "";
  return string_or_empty(object_member(file, "call", where), "data", where);
}

// The output of osp quantize: models in their order, each with all of its methods and seeds.
std::vector<ModelResults> read_quantize_runs(const Json& file, const std::string& where) {
  // One result per run of the command.
  std::vector<ModelResults> models;
  for (const Json& item : objects_member(file, "runs", where)) {
    if (has_value(item, "refused")) continue;
    const std::string name = json_string(item, "model", where);
    auto model = std::find_if(models.begin(), models.end(),
                              [&](const ModelResults& known) { return known.model == name; });
    if (model == models.end()) model = models.insert(models.end(), ModelResults{.model = name});
    model->rounded_before = string_or_empty(item, "rounded_before", where);
    QuantizedResult result = read_quantization(object_member(item, "report", where), where);
    if (has_value(item, "measured")) {
      read_measured(object_member(item, "measured", where), measured_text(file, where), where,
                    result);
    }
    model->quantized.push_back(result);
  }
  // The command that would make them again, for files that do not record it.
  for (ModelResults& model : models) {
    std::string methods;
    for (const QuantizedResult& result : model.quantized) {
      if ((methods + ",").find(result.method + ",") != std::string::npos) continue;
      methods += (methods.empty() ? "" : ",") + result.method;
    }
    model.sources.push_back(
        source_of(file, {},
                  fmt::format("osp quantize {} --method {} --bits {} --report --json > {}",
                              shell_word(model.model), shell_word(methods),
                              shell_word(model.quantized[0].bits), shell_word(where))));
  }
  return models;
}

// The quantize.json of a quantized model dir.
ModelResults read_quantize_json(const Json& file, const std::string& where) {
  ModelResults model{.model = string_or_empty(file, "model", where)};
  model.rounded_before =
      string_or_empty(object_member(file, "settings", where), "rounded_before", where);
  model.quantized.push_back(read_quantization(file, where));
  const QuantizedResult& result = model.quantized[0];
  ModelResults::Source source{
      fmt::format("osp quantize {} --method {} --bits {} --out DIR", shell_word(model.model),
                  shell_word(result.method), shell_word(result.bits)),
      Json::object()};
  for (const auto& [key, value] : file["settings"].items()) {
    if (!value.is_structured()) source.facts[key] = value;
  }
  model.sources.push_back(source);
  return model;
}

bool is(const Json& file, const char* key, Json::value_t type) {
  const auto found = file.find(key);
  return found != file.end() && found->type() == type;
}

[[noreturn]] void refuse(const Json& file, const std::string& where) {
  std::string found = file.is_object() ? "" : file.type_name();
  size_t shown = 0;
  for (const auto& [key, value] : file.items()) {
    if (!file.is_object() || ++shown > 8) break;
    found += (found.empty() ? "keys " : ", ") + json_text(Json(shorten(key, 40)));
  }
  fail(ErrorCode::unsupported,
       "{}: none of the results that osp report knows; expected the JSON of osp eval (with "
       "\"results\" or \"models\"), osp analyze (\"excess_kurtosis\"), osp quantize (\"runs\") or "
       "a quantize.json (\"settings\" and \"layers\"); found {}",
       where, found.empty() ? "an empty object" : found);
}

}  // namespace

std::vector<ModelResults> read_items(const std::string& text, const std::string& where) {
  std::vector<ModelResults> models;
  size_t line = 0;
  for (size_t begin = 0; begin < text.size();) {
    // One item.
    const std::string at = fmt::format("{}:{}", where, ++line);
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) {
      fail(ErrorCode::damaged,
           "{}: the line is torn (it has no line end); run osp eval again with "
           "--resume",
           at);
    }
    const Json item = parse_json(std::string_view(text).substr(begin, end - begin), at);
    begin = end + 1;
    if (!item.is_object()) fail(ErrorCode::damaged, "{}: not a JSON object", at);
    const std::string name = json_string(item, "model", at), bits = json_string(item, "bits", at),
                      task = json_string(item, "task", at);
    // Its model, and the list of its task at these bits.
    auto model = std::find_if(models.begin(), models.end(),
                              [&](const ModelResults& known) { return known.model == name; });
    if (model == models.end()) model = models.insert(models.end(), ModelResults{.model = name});
    auto list = std::find_if(model->items.begin(), model->items.end(), [&](const TaskItems& known) {
      return known.bits == bits && known.task == task;
    });
    if (list == model->items.end()) {
      list = model->items.insert(list, {bits, task, {}, {}, {}});
    }
    list->index.push_back(json_int(item, "index", at));
    list->correct.push_back(json_bool(item, "correct", at) ? 1 : 0);
    std::string question;
    for (const char* key : {"context", "contexts", "choices", "answer", "references"}) {
      if (item.contains(key)) question += json_text(item[key]) + "\n";
    }
    list->questions.push_back(std::hash<std::string>()(question));
  }
  return models;
}

std::vector<ModelResults> read_results(const Json& file, const std::string& where) {
  using Type = Json::value_t;
  if (file.is_object() && file.contains("excess_kurtosis")) return {read_analysis(file, where)};
  const bool evaluation = file.is_object() && (file.contains("results") || file.contains("models"));
  if (evaluation) return read_evaluations(file, where);
  if (is(file, "runs", Type::array) && !file["runs"].empty()) {
    return read_quantize_runs(file, where);
  }
  if (is(file, "settings", Type::object) && file.contains("layers")) {
    return {read_quantize_json(file, where)};
  }
  refuse(file, where);
}

}  // namespace osp
