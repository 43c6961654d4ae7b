#include "osp/report/task_charts.h"

#include <algorithm>
#include <cmath>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/common_measurements.h"
#include "osp/report/plain_names.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr const char* kAverage = "average";
constexpr double kPixelsPerTask = 56;

const TaskResult* find_task(const EvalResult& result, const std::string& task) {
  for (const TaskResult& found : result.tasks) {
    if (found.task == task) return &found;
  }
  return nullptr;
}

double percent(double share) { return 100 * share; }

std::string score_text(double value, double error) {
  if (!std::isfinite(value)) return "–";
  const std::string text = fmt::format("{:.1f}", percent(value));
  return std::isfinite(error) ? text + fmt::format(" ± {:.1f}", percent(error)) : text;
}

// The bars of one model at one number of bits; `turn` is the index of the bits, which sets the
// pattern of the bars.
Json score_bars(const RunData& run, size_t index, size_t turn, const EvalResult& result,
                const std::vector<std::string>& tasks) {
  std::vector<std::string> names;
  std::vector<double> values, errors;
  for (const std::string& task : tasks) {
    const TaskResult* found = find_task(result, task);
    names.push_back(escape_html(plain_name(task)));
    values.push_back(found ? percent(found->value) : kNan);
    errors.push_back(found ? percent(found->standard_error) : kNan);
  }
  if (std::isfinite(result.average)) {
    names.push_back(kAverage);
    values.push_back(percent(result.average));
    errors.push_back(percent(average_error(result)));
  }
  return {{"type", "bar"},
          {"name", escape_html(run.label + ", " + result.bits)},
          {"x", names},
          {"y", to_json_array(values)},
          {"error_y", {{"type", "data"}, {"array", to_json_array(errors)}}},
          {"hovertemplate", "%{y:.1f}"},
          {"meta", {{"run", index}, {"role", "bar"}, {"turn", turn}}}};
}

std::vector<std::string> plain_names(const std::vector<std::string>& keys) {
  std::vector<std::string> names;
  for (const std::string& key : keys) names.push_back(plain_name(key));
  return names;
}

// The score of guessing as a short line across each task's group of bars.
Json chance_trace(const std::vector<std::string>& tasks, const std::vector<double>& chances) {
  return {{"type", "scatter"},           {"mode", "markers"},
          {"name", "guessing"},          {"x", escaped_list(plain_names(tasks))},
          {"y", to_json_array(chances)}, {"hovertemplate", "%{y:.1f}"},
          {"meta", {{"role", "chance"}}}};
}

}  // namespace

std::vector<Chart> task_charts(const std::vector<RunData>& runs) {
  Chart chart{.id = "tasks",
              .title = "Benchmarks",
              .caption =
                  "Score of each task in percent with its standard error, every model at "
                  "each number of bits (weights-activations-cache; striped: fewer than 16); "
                  "higher is better. Dashes: the score of guessing. Scores of other items or by "
                  "another metric, which the table lists, cannot be compared.",
              .wide = true};
  chart.pixels_per_category = kPixelsPerTask;
  // All tasks, and their rows in the table.
  std::vector<std::string> tasks;
  std::vector<double> chances;
  bool averages = false;
  for (const RunData& run : runs) {
    for (const EvalResult& result : run.evaluation) {
      for (const TaskResult& task : result.tasks) {
        if (add_once(task.task, tasks)) chances.push_back(percent(task.chance));
      }
      averages = averages || std::isfinite(result.average);
    }
  }
  if (tasks.empty()) return {};
  for (size_t t = 0; t < tasks.size(); ++t) {
    chart.table.rows.push_back(
        {plain_name(tasks[t]), "–", "–", score_text(chances[t] / 100, kNan)});
  }
  if (averages) chart.table.rows.push_back({kAverage, "–", "–", "–"});
  chart.table.header = {"task", "metric", "items", "guessing (%)"};
  // Bars and columns per model and number of bits.
  for (size_t r = 0; r < runs.size(); ++r) {
    size_t turn = 0;
    for (const EvalResult& result : runs[r].evaluation) {
      if (result.tasks.empty()) continue;
      chart.traces.push_back(
          score_bars(runs[r], r, result.bits == kFullBits ? 0 : ++turn, result, tasks));
      chart.table.header.push_back(runs[r].label + ", " + result.bits + " (%)");
      for (size_t t = 0; t < tasks.size(); ++t) {
        const TaskResult* found = find_task(result, tasks[t]);
        auto& row = chart.table.rows[t];
        row.push_back(found ? score_text(found->value, found->standard_error) : "–");
        if (!found) continue;
        if (found->cut > 0) row.back() += fmt::format(" ({:.0f} prompts cut)", found->cut);
        if (!found->metric.empty()) set_shared(row[1], plain_name(found->metric));
        if (std::isfinite(found->items)) {
          set_shared(row[2], format_count(std::llround(found->items)));
        }
      }
      if (averages)
        chart.table.rows.back().push_back(score_text(result.average, average_error(result)));
    }
  }
  if (std::any_of(chances.begin(), chances.end(), [](double v) { return std::isfinite(v); })) {
    chart.traces.push_back(chance_trace(tasks, chances));
  }
  chart.layout = {
      {"xaxis", {{"title", {{"text", "task"}}}, {"type", "category"}, {"tickangle", -35}}},
      {"yaxis", {{"title", {{"text", "score (%)"}}}, {"rangemode", "tozero"}}},
      {"barmode", "group"},
      {"hovermode", "x unified"}};
  return {chart};
}

}  // namespace osp
