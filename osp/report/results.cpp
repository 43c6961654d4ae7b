#include "osp/report/results.h"

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/report/html.h"
#include "osp/report/json_fields.h"

namespace osp {
namespace {

Histogram read_histogram(const Json& item, const std::string& where) {
  Histogram histogram;
  histogram.point = string_or_empty(item, "point", where);
  histogram.layer = int_or(item, "layer", 0, where);
  histogram.low = number_or_nan(item, "low", where, Presence::required);
  histogram.high = number_or_nan(item, "high", where, Presence::required);
  histogram.mean = number_or_nan(item, "mean", where);
  histogram.std = number_or_nan(item, "std", where);
  histogram.counts = number_list(item, "counts", where);
  return histogram;
}

LargestActivation read_largest(const Json& item, const std::string& where) {
  LargestActivation largest;
  largest.value = number_or_nan(item, "value", where, Presence::required);
  largest.layer = int_or(item, "layer", -1, where);
  largest.position = int_or(item, "position", -1, where);
  largest.channel = int_or(item, "channel", -1, where);
  largest.token = string_or_empty(item, "token", where);
  largest.point = string_or_empty(item, "point", where);
  largest.before = string_or_empty(item, "before", where);
  return largest;
}

// What a file says about how it came to be, without its results.
ModelResults::Source source_of(const Json& file, const std::vector<std::string>& results,
                               const std::string& command) {
  ModelResults::Source source{command, Json::object()};
  if (file.contains("command") && file["command"].is_string()) source.command = file["command"];
  for (const auto& [key, value] : file.items()) {
    const bool shown = key == "command" || key == "model" ||
                       std::find(results.begin(), results.end(), key) != results.end();
    if (!shown && !value.is_array()) source.facts[key] = value;
  }
  return source;
}

std::string source_word(const Json& file, const char* key, const char* otherwise) {
  const bool known = file.contains(key) && file[key].is_string() && !file[key].empty();
  const std::string text = known ? file[key].get<std::string>() : "";
  return text.empty() ? otherwise : shell_word(text);
}

TaskResult read_task(const Json& item, const std::string& where) {
  return {.task = json_string(item, "task", where),
          .metric = string_or_empty(item, "metric", where),
          .value = number_or_nan(item, "value", where, Presence::required),
          .standard_error = number_or_nan(item, "standard_error", where),
          .chance = number_or_nan(item, "chance", where),
          .items = number_or_nan(item, "n", where)};
}

// One model's part of the output of osp eval.
ModelResults read_evaluation(const Json& file, const std::string& where) {
  ModelResults model{.model = string_or_empty(file, "model", where)};
  std::string bits;
  for (const Json& item : objects_member(file, "results", where)) {
    EvalResult result{.bits = json_string(item, "bits", where)};
    const Json& tasks = objects_or_none(item, "tasks", where);
    result.perplexity = number_or_nan(item, "perplexity", where,
                                      tasks.empty() ? Presence::required : Presence::optional);
    for (const Json& task : tasks) result.tasks.push_back(read_task(task, where));
    result.average = number_or_nan(item, "average", where);
    bits += (bits.empty() ? "" : ",") + result.bits;
    model.evaluation.push_back(result);
  }
  model.sources.push_back(
      source_of(file, {"results", "data"},
                fmt::format("osp eval {} --data {} --bits {} --json > {}",
                            source_word(file, "model", "MODEL"), source_word(file, "data", "DATA"),
                            shell_word(bits), shell_word(where))));
  return model;
}

ModelResults read_analysis(const Json& file, const std::string& where) {
  ModelResults model{.model = string_or_empty(file, "model", where)};
  model.analysis = read_outliers(file, where);
  model.has_analysis = true;
  for (const Json& item : objects_or_none(file, "histograms", where)) {
    model.histograms.push_back(read_histogram(item, where));
  }
  model.sources.push_back(source_of(
      file, {"excess_kurtosis", "largest_activation", "data"},
      fmt::format("osp analyze {} --data {} --json > {}", source_word(file, "model", "MODEL"),
                  source_word(file, "data", "DATA"), shell_word(where))));
  return model;
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

// The output of osp quantize: models in their order, each with all of its methods and seeds.
std::vector<ModelResults> read_quantize_runs(const Json& file, const std::string& where) {
  std::vector<ModelResults> models;
  for (const Json& item : objects_member(file, "runs", where)) {
    const std::string name = json_string(item, "model", where);
    auto model = std::find_if(models.begin(), models.end(),
                              [&](const ModelResults& known) { return known.model == name; });
    if (model == models.end()) model = models.insert(models.end(), ModelResults{.model = name});
    QuantizedResult result = read_quantization(object_member(item, "report", where), where);
    if (has(item, "measured")) {
      const Json& measured = object_member(item, "measured", where);
      result.perplexity_16 = number_or_nan(measured, "perplexity_16", where);
      result.perplexity = number_or_nan(measured, "perplexity", where, Presence::required);
      result.divergence = number_or_nan(measured, "kl_divergence", where);
      result.same_choice = number_or_nan(measured, "same_choice", where);
    }
    model->quantized.push_back(result);
  }
  for (ModelResults& model : models) {
    std::string methods;
    for (const QuantizedResult& result : model.quantized) {
      if ((methods + ",").find(result.method + ",") != std::string::npos) continue;
      methods += (methods.empty() ? "" : ",") + result.method;
    }
    model.sources.push_back(
        source_of(file, {"runs"},
                  fmt::format("osp quantize {} --method {} --bits {} --report --json > {}",
                              shell_word(model.model), shell_word(methods),
                              shell_word(model.quantized[0].bits), shell_word(where))));
  }
  return models;
}

// The quantize.json of a quantized model dir.
ModelResults read_quantize_json(const Json& file, const std::string& where) {
  ModelResults model{.model = string_or_empty(file, "model", where)};
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
    found += (found.empty() ? "keys " : ", ") + Json(shorten(key, 40)).dump();
  }
  fail(
      ErrorCode::unsupported,
      "{}: none of the results that osp report knows; expected the JSON of osp eval (with "
      "\"results\"), osp analyze (\"excess_kurtosis\"), osp quantize (\"runs\") or a quantize.json "
      "(\"settings\" and \"layers\"); found {}",
      where, found.empty() ? "an empty object" : found);
}

}  // namespace

Outliers read_outliers(const Json& object, const std::string& where) {
  Outliers outliers;
  const Json& kurtosis = object_member(object, "excess_kurtosis", where);
  outliers.kurtosis = number_or_nan(kurtosis, "mean", where, Presence::required);
  outliers.clipped_kurtosis = number_or_nan(kurtosis, "clipped_mean", where);
  outliers.kurtosis_per_layer = number_list(kurtosis, "per_layer", where);
  outliers.largest = read_largest(object_member(object, "largest_activation", where), where);
  return outliers;
}

std::vector<ModelResults> read_results(const Json& file, const std::string& where) {
  using Type = Json::value_t;
  if (file.is_object() && file.contains("excess_kurtosis")) return {read_analysis(file, where)};
  if (file.is_object() && file.contains("results")) return {read_evaluation(file, where)};
  if (is(file, "runs", Type::array) && !file["runs"].empty()) {
    return read_quantize_runs(file, where);
  }
  if (is(file, "settings", Type::object) && file.contains("layers")) {
    return {read_quantize_json(file, where)};
  }
  refuse(file, where);
}

}  // namespace osp
