#include "osp/report/run_data.h"

#include <algorithm>
#include <cmath>
#include <iterator>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/report/json_fields.h"
#include "osp/report/read_analysis.h"

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
  run.last_validation.at.text = "the held-out text of its training";
  run.validation_loss.add(tokens, number_or_nan(record, "loss", where, Presence::required));
  run.kurtosis.add(tokens, run.last_validation.kurtosis);
  run.largest.add(tokens, run.last_validation.largest.value);
  run.attention_logit.add(tokens, number_or_nan(record, "largest_attention_logit", where));
  run.kurtosis_per_layer.push_back(run.last_validation.kurtosis_per_layer);
}

// One line of metrics.jsonl; unknown kinds are skipped.
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
  if (kind != "step" && kind != "validation" && kind != "end") return;  // a later version's
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

// The name with '_' for '-', '.' and spaces.
std::string identifier(std::string name) {
  for (char& c : name) {
    if (c == '-' || c == '.' || c == ' ') c = '_';
  }
  return name;
}

// Appends `added` to `known`, in place of those that are `same`.
template <class Result, class Same>
void replace_or_add(std::vector<Result>& known, std::vector<Result>& added, Same same) {
  std::erase_if(known, [&](const Result& old) {
    return std::any_of(added.begin(), added.end(),
                       [&](const Result& result) { return same(old, result); });
  });
  std::move(added.begin(), added.end(), std::back_inserter(known));
}

// Adds an evaluation; a second one at the same bits, measured in the same way, adds its numbers to
// the first.
void add_evaluation(EvalResult added, std::vector<EvalResult>& known) {
  const auto same = std::find_if(known.begin(), known.end(), [&](const EvalResult& old) {
    return old.bits == added.bits && old.at.key() == added.at.key();
  });
  if (same == known.end()) {
    known.push_back(std::move(added));
    return;
  }
  if (std::isfinite(added.perplexity)) same->perplexity = added.perplexity;
  if (std::isfinite(added.average)) same->average = added.average;
  replace_or_add(same->tasks, added.tasks,
                 [](const TaskResult& a, const TaskResult& b) { return a.task == b.task; });
}

// Reads a results file in the run's folder about its own model; false if it does not exist.
bool read_own_results(const std::string& path, RunData& run) {
  if (!path_exists(path)) return false;
  for (ModelResults& results : read_results(read_json_file(path), path)) {
    add_results(std::move(results), run);
  }
  return true;
}

}  // namespace

const Outliers& RunData::outliers() const { return has_analysis ? analysis : last_validation; }

std::vector<TextPerplexities> RunData::perplexities() const {
  std::vector<TextPerplexities> all;
  const auto add = [&](const Measurement& at, const std::string& bits, double value) {
    if (!std::isfinite(value)) return;
    const auto found = std::find_if(all.begin(), all.end(), [&](const TextPerplexities& known) {
      return known.at.key() == at.key();
    });
    TextPerplexities& there =
        found == all.end() ? *all.insert(all.end(), TextPerplexities{at, {}}) : *found;
    there.by_bits.emplace(bits, value);  // the first stays
  };
  for (const EvalResult& result : evaluation) add(result.at, result.bits, result.perplexity);
  for (const QuantizedResult& result : quantized) {
    add(result.at, kFullBits, result.perplexity_16);
    if (result.method == "rtn") add(result.at, result.bits, result.perplexity);
  }
  return all;
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

std::filesystem::path clean_path(const std::string& path) {
  const auto absolute = std::filesystem::weakly_canonical(std::filesystem::absolute(path));
  return absolute.has_filename() ? absolute : absolute.parent_path();
}

void set_name(const std::string& name, RunData& run) {
  run.name = run.label = name;
  run.key = identifier(name);
}

void add_results(ModelResults results, RunData& run) {
  if (run.model.empty()) run.model = results.model;
  if (run.rounded_before.empty()) run.rounded_before = results.rounded_before;
  for (EvalResult& result : results.evaluation) add_evaluation(std::move(result), run.evaluation);
  if (results.has_analysis) {
    run.has_analysis = true;
    run.analysis = std::move(results.analysis);
    run.largest_activations = std::move(results.largest_activations);
    run.histograms = std::move(results.histograms);
    run.sinks = std::move(results.sinks);
    run.predicted = std::move(results.predicted);
    run.cost = std::move(results.cost);
    run.verdicts = std::move(results.verdicts);
  }
  // Several seeds of one method come in one file and are kept.
  replace_or_add(run.quantized, results.quantized,
                 [](const QuantizedResult& a, const QuantizedResult& b) {
                   return a.method == b.method && a.bits == b.bits && a.at.key() == b.at.key();
                 });
  replace_or_add(run.items, results.items, [](const TaskItems& a, const TaskItems& b) {
    return a.bits == b.bits && a.task == b.task;
  });
  std::move(results.sources.begin(), results.sources.end(), std::back_inserter(run.sources));
}

RunData read_run(const std::string& path, bool live) {
  const std::string metrics = path + "/metrics.jsonl";
  if (!path_exists(metrics)) {
    fail(ErrorCode::usage,
         "{}: no metrics.jsonl there; expected a run folder as osp train writes it", path);
  }
  // The run's own records.
  RunData run;
  run.path = path;
  set_name(clean_path(path).filename().string(), run);
  read_metrics(metrics, live, run);
  // The recipe and the results beside them; note what is missing.
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
