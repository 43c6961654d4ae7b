#include "osp/report/run_data.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "osp/base/error.h"
#include "osp/base/file.h"

namespace osp {
namespace {

// A number or null (a non-finite number of the run) of `object`; NaN if null or, unless `required`,
// absent.
double number_or_nan(const Json& object, const char* key, const std::string& where,
                     bool required = false) {
  const auto found = object.find(key);
  if (found == object.end() && !required) return kNan;
  if (found != object.end() && found->is_null()) return kNan;
  return json_number(object, key, where);
}

int64_t int_or(const Json& object, const char* key, int64_t otherwise, const std::string& where) {
  return object.contains(key) && !object[key].is_null() ? json_int(object, key, where) : otherwise;
}

std::string string_or_empty(const Json& object, const char* key, const std::string& where) {
  return object.contains(key) && !object[key].is_null() ? json_string(object, key, where) : "";
}

const Json& member(const Json& object, const char* key, Json::value_t type, const char* type_name,
                   const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->type() != type) {
    fail(ErrorCode::damaged, "{}: \"{}\" is {}, expected {}; write the file again", where, key,
         found == object.end() ? "missing" : found->type_name(), type_name);
  }
  return *found;
}

std::vector<double> number_list(const Json& object, const char* key, const std::string& where) {
  std::vector<double> values;
  for (const Json& item : member(object, key, Json::value_t::array, "an array", where)) {
    if (!item.is_number() && !item.is_null()) {
      fail(ErrorCode::damaged, "{}: \"{}\" holds {}, expected numbers or null", where, key,
           item.type_name());
    }
    values.push_back(item.is_null() ? kNan : item.get<double>());
  }
  return values;
}

// excess_kurtosis and largest_activation, as validation records and analysis.json both have them.
Outliers read_outliers(const Json& object, const std::string& where) {
  Outliers outliers;
  const Json& kurtosis =
      member(object, "excess_kurtosis", Json::value_t::object, "an object", where);
  outliers.kurtosis = number_or_nan(kurtosis, "mean", where, true);
  outliers.clipped_kurtosis = number_or_nan(kurtosis, "clipped_mean", where);
  outliers.kurtosis_per_layer = number_list(kurtosis, "per_layer", where);
  const Json& largest =
      member(object, "largest_activation", Json::value_t::object, "an object", where);
  outliers.largest.value = number_or_nan(largest, "value", where, true);
  outliers.largest.layer = int_or(largest, "layer", -1, where);
  outliers.largest.position = int_or(largest, "position", -1, where);
  outliers.largest.channel = int_or(largest, "channel", -1, where);
  outliers.largest.token = string_or_empty(largest, "token", where);
  return outliers;
}

void read_step(const Json& record, const std::string& where, RunData& run) {
  const double tokens = json_number(record, "tokens", where);
  run.loss.add(tokens, number_or_nan(record, "loss", where, true));
  run.learning_rate.add(tokens, number_or_nan(record, "lr", where, true));
  if (record.contains("gradient_norm")) {
    const Json& norms = member(record, "gradient_norm", Json::value_t::object, "an object", where);
    run.gradient_norm.add(tokens, number_or_nan(norms, "all", where));
  }
  if (record.contains("tokens_per_s")) {
    run.tokens_per_s.add(tokens, number_or_nan(record, "tokens_per_s", where));
  }
  const double peak = number_or_nan(record, "peak_memory_bytes", where);
  if (peak > run.peak_memory_bytes) run.peak_memory_bytes = peak;
  const double seconds = number_or_nan(record, "seconds", where);
  if (seconds > run.seconds) run.seconds = seconds;
  if (record.contains("skipped") && json_bool(record, "skipped", where)) ++run.skipped_steps;
}

void read_validation(const Json& record, const std::string& where, RunData& run) {
  const double tokens = json_number(record, "tokens", where);
  run.last_validation = read_outliers(record, where);
  run.validation_loss.add(tokens, number_or_nan(record, "loss", where, true));
  run.kurtosis.add(tokens, run.last_validation.kurtosis);
  run.largest.add(tokens, run.last_validation.largest.value);
  run.attention_logit.add(tokens, number_or_nan(record, "largest_attention_logit", where));
  run.kurtosis_per_layer.push_back(run.last_validation.kurtosis_per_layer);
}

void read_record(const Json& record, const std::string& where, RunData& run) {
  if (!record.is_object()) {
    fail(ErrorCode::damaged, "{}: the line holds {}, expected an object", where,
         record.type_name());
  }
  const std::string kind = json_string(record, "kind", where);
  if (kind == "start") {
    run.start = record;
    if (record.contains("recipe")) {
      run.recipe = member(record, "recipe", Json::value_t::object, "an object", where);
      run.start.erase("recipe");
    }
    return;
  }
  if (kind == "sample") {
    run.samples.push_back({json_int(record, "step", where), json_string(record, "prompt", where),
                           json_string(record, "text", where)});
    return;
  }
  if (kind != "step" && kind != "validation" && kind != "end") return;  // of a later version
  run.step = std::max(run.step, json_int(record, "step", where));
  run.tokens = std::max(run.tokens, json_number(record, "tokens", where));
  if (kind == "step") read_step(record, where, run);
  if (kind == "validation") read_validation(record, where, run);
  if (kind == "end") {
    run.ended = true;
    const double seconds = number_or_nan(record, "seconds", where);
    if (seconds > 0) run.seconds = seconds;
  }
}

void read_metrics(const std::string& path, RunData& run) {
  const std::string text = read_file(path);
  size_t line = 0;
  for (size_t begin = 0; begin < text.size();) {
    ++line;
    const std::string where = fmt::format("{}:{}", path, line);
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) {
      fail(
          ErrorCode::damaged,
          "{}: the line is torn (it has no line end); wait until the run has written it, or resume "
          "the run, which repairs its file",
          where);
    }
    read_record(parse_json(std::string_view(text).substr(begin, end - begin), where), where, run);
    begin = end + 1;
  }
  if (line == 0) fail(ErrorCode::damaged, "{}: the file is empty, expected records of a run", path);
}

void read_evaluation(const std::string& path, RunData& run) {
  const Json file = read_json_file(path);
  for (const Json& result : member(file, "results", Json::value_t::array, "an array", path)) {
    if (!result.is_object()) {
      fail(ErrorCode::damaged, "{}: \"results\" holds {}, expected objects", path,
           result.type_name());
    }
    run.evaluation.push_back(
        {json_string(result, "bits", path), number_or_nan(result, "perplexity", path, true)});
  }
  for (const char* key : {"model", "data"}) {
    run.eval_source[key] = string_or_empty(file, key, path);
  }
}

void read_analysis(const std::string& path, RunData& run) {
  const Json file = read_json_file(path);
  run.analysis = read_outliers(file, path);
  for (const char* key : {"model", "data"}) {
    run.analysis_source[key] = string_or_empty(file, key, path);
  }
  if (!file.contains("histograms")) return;
  for (const Json& item : member(file, "histograms", Json::value_t::array, "an array", path)) {
    Histogram histogram;
    histogram.point = json_string(item, "point", path);
    histogram.layer = json_int(item, "layer", path);
    histogram.low = number_or_nan(item, "low", path, true);
    histogram.high = number_or_nan(item, "high", path, true);
    histogram.mean = number_or_nan(item, "mean", path, true);
    histogram.std = number_or_nan(item, "std", path, true);
    histogram.counts = number_list(item, "counts", path);
    run.histograms.push_back(std::move(histogram));
  }
}

std::string identifier(std::string name) {
  for (char& c : name) {
    if (c == '-' || c == '.' || c == ' ') c = '_';
  }
  return name;
}

std::filesystem::path clean_path(const std::string& path) {
  const auto absolute = std::filesystem::weakly_canonical(std::filesystem::absolute(path));
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

void set_label(std::vector<RunData>& runs, const std::string& label) {
  const size_t equals = label.find('=');
  std::string known;
  for (RunData& run : runs) {
    if (equals != std::string::npos &&
        (label.substr(0, equals) == run.name || label.substr(0, equals) == run.key)) {
      run.label = label.substr(equals + 1);
      return;
    }
    known += (known.empty() ? "" : ", ") + run.name;
  }
  fail(ErrorCode::usage, "--label {}: expected NAME=TEXT with NAME one of {}", label, known);
}

}  // namespace

const Outliers& RunData::outliers() const {
  return analysis.kurtosis_per_layer.empty() ? last_validation : analysis;
}

double RunData::perplexity(const std::string& bits) const {
  for (const EvalResult& result : evaluation) {
    if (result.bits == bits) return result.perplexity;
  }
  return kNan;
}

double RunData::final_validation_loss() const {
  return validation_loss.empty() ? kNan : validation_loss.values.back();
}

double RunData::peak_learning_rate() const {
  double peak = kNan;
  for (const double rate : learning_rate.values) {
    if (std::isfinite(rate) && !(rate <= peak)) peak = rate;
  }
  return peak;
}

RunData read_run(const std::string& path) {
  const std::string metrics = path + "/metrics.jsonl";
  if (!path_exists(metrics)) {
    fail(ErrorCode::usage,
         "{}: no metrics.jsonl there; expected a run folder as osp train writes it", path);
  }
  RunData run;
  run.path = path;
  run.name = clean_path(path).filename().string();
  run.key = identifier(run.name);
  run.label = run.name;
  read_metrics(metrics, run);
  if (path_exists(path + "/recipe.json")) {
    run.recipe = read_json_file(path + "/recipe.json");
  } else {
    run.missing.push_back("recipe.json is missing: the recipe is that of the first record");
  }
  if (path_exists(path + "/eval.json")) {
    read_evaluation(path + "/eval.json", run);
  } else {
    run.missing.push_back("eval.json is missing: no perplexities (osp eval --json writes it)");
  }
  if (path_exists(path + "/analysis.json")) {
    read_analysis(path + "/analysis.json", run);
  } else {
    run.missing.push_back(
        "analysis.json is missing: outliers are those of the last validation, and there are no "
        "histograms (osp analyze --json writes it)");
  }
  if (run.validation_loss.empty()) run.missing.push_back("no validation was recorded");
  if (!run.ended) run.missing.push_back("the run has not ended: its numbers are not final");
  return run;
}

std::vector<RunData> read_runs(const std::vector<std::string>& paths,
                               const std::vector<std::string>& labels) {
  std::vector<RunData> runs;
  for (const std::string& path : paths) runs.push_back(read_run(path));
  std::multiset<std::string> names;
  for (const RunData& run : runs) names.insert(run.key);
  std::set<std::string> keys;
  for (RunData& run : runs) {
    if (names.count(run.key) > 1) {
      run.name = clean_path(run.path).parent_path().filename().string() + "-" + run.name;
      run.key = identifier(run.name);
      run.label = run.name;
    }
    if (!keys.insert(run.key).second) {
      fail(ErrorCode::usage,
           "{}: a second run named {}; give each run once, in folders of "
           "different names",
           run.path, run.name);
    }
  }
  for (const std::string& label : labels) set_label(runs, label);
  return runs;
}

}  // namespace osp
