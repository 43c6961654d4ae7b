#include "osp/report/run_data.h"

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/report/inputs.h"
#include "osp/report/json_fields.h"

namespace osp {
namespace {

void read_step(const Json& record, const std::string& where, RunData& run) {
  const double tokens = json_number(record, "tokens", where);
  run.loss.add(tokens, number_or_nan(record, "loss", where, Presence::required));
  run.learning_rate.add(tokens, number_or_nan(record, "lr", where, Presence::required));
  if (record.contains("gradient_norm")) {
    const Json& norms = object_member(record, "gradient_norm", where);
    run.gradient_norm.add(tokens, number_or_nan(norms, "all", where));
  }
  if (record.contains("tokens_per_s")) {
    run.tokens_per_s.add(tokens, number_or_nan(record, "tokens_per_s", where));
  }
  const double peak = number_or_nan(record, "peak_memory_bytes", where);
  if (peak > run.peak_memory_bytes) run.peak_memory_bytes = peak;
  const double seconds = number_or_nan(record, "seconds", where);
  if (seconds > run.seconds) run.seconds = seconds;
  if (std::isfinite(seconds)) run.clock.add(tokens, seconds);
  if (record.contains("skipped") && json_bool(record, "skipped", where)) ++run.skipped_steps;
}

void read_validation(const Json& record, const std::string& where, RunData& run) {
  const double tokens = json_number(record, "tokens", where);
  run.last_validation = read_outliers(record, where);
  run.validation_loss.add(tokens, number_or_nan(record, "loss", where, Presence::required));
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
      run.recipe = object_member(record, "recipe", where);
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

void read_metrics(const std::string& path, bool live, RunData& run) {
  const std::string text = read_file(path);
  size_t line = 0;
  for (size_t begin = 0; begin < text.size();) {
    ++line;
    const std::string where = fmt::format("{}:{}", path, line);
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos && live) break;
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

// The results of a file that the run's folder holds about its own model, if it is there.
bool read_own_results(const std::string& path, RunData& run) {
  if (!path_exists(path)) return false;
  for (ModelResults& results : read_results(read_json_file(path), path)) {
    add_results(std::move(results), run);
  }
  return true;
}

}  // namespace

const Outliers& RunData::outliers() const { return has_analysis ? analysis : last_validation; }

double RunData::perplexity(const std::string& bits) const {
  for (const EvalResult& result : evaluation) {
    if (result.bits == bits && std::isfinite(result.perplexity)) return result.perplexity;
  }
  for (const QuantizedResult& result : quantized) {
    if (result.method == "rtn" && result.bits == bits) return result.perplexity;
  }
  for (const QuantizedResult& result : quantized) {
    if (bits == "16-16-16" && std::isfinite(result.perplexity_16)) return result.perplexity_16;
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

RunData read_run(const std::string& path, bool live) {
  const std::string metrics = path + "/metrics.jsonl";
  if (!path_exists(metrics)) {
    fail(ErrorCode::usage,
         "{}: no metrics.jsonl there; expected a run folder as osp train writes it", path);
  }
  RunData run;
  run.path = path;
  set_name(clean_path(path).filename().string(), run);
  read_metrics(metrics, live, run);
  if (path_exists(path + "/recipe.json")) {
    run.recipe = read_json_file(path + "/recipe.json");
  } else {
    run.missing.push_back("recipe.json is missing: the recipe is that of the first record");
  }
  if (!read_own_results(path + "/eval.json", run)) {
    run.missing.push_back("eval.json is missing: no perplexities (osp eval --json writes it)");
  }
  if (!read_own_results(path + "/analysis.json", run)) {
    run.missing.push_back(
        "analysis.json is missing: outliers are those of the last validation, and there are no "
        "histograms (osp analyze --json writes it)");
  }
  if (run.validation_loss.empty()) run.missing.push_back("no validation was recorded");
  if (!run.ended) run.missing.push_back("the run has not ended: its numbers are not final");
  return run;
}

}  // namespace osp
