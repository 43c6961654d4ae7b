#include "osp/report/curve_charts.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr size_t kCurveTableRows = 24;

using SeriesOf = std::function<const Series&(const RunData&)>;

bool has_numbers(const std::vector<RunData>& runs, const SeriesOf& series_of) {
  for (const RunData& run : runs) {
    for (const double value : series_of(run).values) {
      if (std::isfinite(value)) return true;
    }
  }
  return false;
}

// A table of evenly spread points: one column per run where all were measured at the same tokens,
// else a row per run and point. Runs without a curve are omitted.
HtmlTable curve_table(const std::vector<RunData>& runs, const std::vector<Series>& curves) {
  std::vector<size_t> shown;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (!curves[r].empty()) shown.push_back(r);
  }
  const std::vector<double>& tokens = curves[shown.at(0)].tokens;
  const bool together =
      std::all_of(shown.begin(), shown.end(), [&](size_t r) { return curves[r].tokens == tokens; });
  HtmlTable table;
  if (together) {
    table.header = {"tokens"};
    for (const size_t r : shown) table.header.push_back(runs[r].label);
    for (const size_t i : spread_indices(tokens.size(), kCurveTableRows)) {
      std::vector<std::string> row = {format_count(std::llround(tokens[i]))};
      for (const size_t r : shown) row.push_back(format_number(curves[r].values[i]));
      table.rows.push_back(row);
    }
    return table;
  }
  table.header = {"run", "tokens", "value"};
  for (const size_t r : shown) {
    for (const size_t i : spread_indices(curves[r].size(), kCurveTableRows)) {
      table.rows.push_back({runs[r].label, format_count(std::llround(curves[r].tokens[i])),
                            format_number(curves[r].values[i])});
    }
  }
  return table;
}

Json line_trace(const RunData& run, size_t index, const Series& curve, const std::string& role) {
  return {{"type", "scatter"},
          {"mode", role == "points" ? "lines+markers" : "lines"},
          {"name", escape_html(run.label)},
          {"legendgroup", run.key},
          {"x", to_json_array(curve.tokens)},
          {"y", to_json_array(curve.values)},
          {"meta", {{"run", index}, {"role", role}}}};
}

// The lowest and the highest over seeds as an area; null for a single run.
Json band_trace(const RunData& run, size_t index, const Series& curve, size_t max_points) {
  if (curve.low.empty()) return nullptr;
  const Series low = group_means({.tokens = curve.tokens, .values = curve.low}, max_points);
  const Series high = group_means({.tokens = curve.tokens, .values = curve.high}, max_points);
  std::vector<double> x, y;
  for (size_t i = 0; i < high.size(); ++i) {
    if (!std::isfinite(low.values[i])) continue;
    x.push_back(high.tokens[i]);
    y.push_back(high.values[i]);
  }
  for (size_t i = low.size(); i-- > 0;) {
    if (!std::isfinite(low.values[i])) continue;
    x.push_back(low.tokens[i]);
    y.push_back(low.values[i]);
  }
  return {{"type", "scatter"},      {"mode", "lines"},
          {"fill", "toself"},       {"name", escape_html(run.label)},
          {"legendgroup", run.key}, {"showlegend", false},
          {"hoverinfo", "skip"},    {"x", to_json_array(x)},
          {"y", to_json_array(y)},  {"meta", {{"run", index}, {"role", "band"}}}};
}

Json token_axis() { return {{"title", {{"text", "tokens trained on"}}}, {"rangemode", "tozero"}}; }

// A logarithmic axis for the positive values of all runs; linear if there are none.
Json log_axis(const std::vector<RunData>& runs, const SeriesOf& series_of) {
  Extent extent;
  for (const RunData& run : runs) {
    for (const double value : series_of(run).values) {
      if (value > 0) extent.include(value);
    }
  }
  return extent.found ? log_ticks(extent.low, extent.high) : Json::object();
}

Chart curve_chart(const std::string& id, const std::string& title, const std::string& caption,
                  const std::string& unit, bool logarithmic, const std::vector<RunData>& runs,
                  const SeriesOf& series_of, const std::string& role, size_t max_points) {
  Chart chart{.id = id, .title = title, .caption = caption, .over_tokens = true};
  std::vector<Series> curves;
  for (size_t r = 0; r < runs.size(); ++r) {
    curves.push_back(series_of(runs[r]));
    if (curves[r].empty()) continue;
    const Json band = band_trace(runs[r], r, curves[r], max_points);
    if (!band.is_null()) chart.traces.push_back(band);
    chart.traces.push_back(line_trace(runs[r], r, thin(curves[r], max_points), role));
  }
  chart.layout = {{"xaxis", token_axis()},
                  {"yaxis", {{"title", {{"text", unit}}}}},
                  {"hovermode", "x unified"}};
  if (logarithmic) chart.layout["yaxis"].update(log_axis(runs, series_of));
  chart.table = curve_table(runs, curves);
  if (std::any_of(runs.begin(), runs.end(), [](const RunData& run) { return run.seeds > 1; })) {
    chart.caption += " Of several seeds: the mean, and the lowest and the highest as a band.";
  }
  return chart;
}

Chart kurtosis_chart(const std::vector<RunData>& runs, size_t max_points) {
  Chart chart = curve_chart(
      "kurtosis", "Excess kurtosis while training",
      "How heavy the tails of the hidden states are, mean over tokens and layers of the validation "
      "slice; 0 is a Gaussian. The axis is linear near 0 and logarithmic beyond.",
      "excess kurtosis", false, runs, [](const RunData& r) -> const Series& { return r.kurtosis; },
      "points", max_points);
  const AsinhAxis axis;
  Extent extent;
  for (Json& trace : chart.traces) {
    if (trace["meta"]["role"] == "band") {
      const auto values = trace["y"].get<std::vector<double>>();
      extent.include(values);
      trace["y"] = to_json_array(axis.place(values));
      continue;
    }
    const Series curve = thin(runs[trace["meta"]["run"].get<size_t>()].kurtosis, max_points);
    extent.include(curve.values);
    trace["y"] = to_json_array(axis.place(curve.values));
    trace["customdata"] = to_json_array(curve.values);
    trace["hovertemplate"] = "%{customdata:.3g}";
  }
  chart.layout["yaxis"].update(axis.ticks(extent.low, extent.high));
  return chart;
}

// Draws the logged values faintly and their running mean on top. The page smooths means over groups
// of steps as far as the reader wants; the table has the mean over a fiftieth of the run.
void add_running_mean(Chart& chart, const std::vector<RunData>& runs, const SeriesOf& series_of,
                      size_t max_points) {
  for (Json& trace : chart.traces) trace.update({{"showlegend", false}, {"hoverinfo", "skip"}});
  std::vector<Series> smoothed;
  for (size_t r = 0; r < runs.size(); ++r) {
    const Series& series = series_of(runs[r]);
    smoothed.push_back(smooth(series, smoothing_window(series.size())));
    if (series.empty()) continue;
    chart.traces.push_back(line_trace(runs[r], r, group_means(series, max_points), "smooth"));
  }
  chart.caption +=
      " Each logged step faintly, the running mean in full colour; the table has the mean over the "
      "nearest fiftieth of the run.";
  chart.table = curve_table(runs, smoothed);
}

}  // namespace

std::vector<Chart> outlier_curves(const std::vector<RunData>& runs, size_t max_points) {
  std::vector<Chart> charts;
  const auto kurtosis = [](const RunData& run) -> const Series& { return run.kurtosis; };
  const auto largest = [](const RunData& run) -> const Series& { return run.largest; };
  if (has_numbers(runs, kurtosis)) charts.push_back(kurtosis_chart(runs, max_points));
  if (has_numbers(runs, largest)) {
    charts.push_back(curve_chart("largest", "Largest activation while training",
                                 "The largest absolute value in any hidden state of the validation "
                                 "slice, on a logarithmic axis.",
                                 "largest |activation|", true, runs, largest, "points",
                                 max_points));
  }
  return charts;
}

std::vector<Chart> learning_curves(const std::vector<RunData>& runs, size_t max_points) {
  std::vector<Chart> charts;
  const auto add = [&](const std::string& id, const std::string& title, const std::string& caption,
                       const std::string& unit, bool logarithmic, const SeriesOf& series_of,
                       const std::string& role) {
    if (!has_numbers(runs, series_of)) return;
    charts.push_back(
        curve_chart(id, title, caption, unit, logarithmic, runs, series_of, role, max_points));
    if (role == "raw") add_running_mean(charts.back(), runs, series_of, max_points);
  };
  add(
      "training-loss", "Training loss", "Cross-entropy in nats per token.", "nats per token", false,
      [](const RunData& r) -> const Series& { return r.loss; }, "raw");
  add(
      "validation-loss", "Validation loss", "Cross-entropy in nats per token on text held out.",
      "nats per token", false, [](const RunData& r) -> const Series& { return r.validation_loss; },
      "points");
  add(
      "learning-rate", "Learning rate", "As scheduled, at every logged step.", "learning rate",
      false, [](const RunData& r) -> const Series& { return r.learning_rate; }, "line");
  add(
      "gradient-norm", "Gradient norm",
      "Euclidean norm of the whole gradient before clipping, on a logarithmic axis.",
      "gradient norm", true, [](const RunData& r) -> const Series& { return r.gradient_norm; },
      "raw");
  add(
      "attention-logit", "Largest attention logit",
      "The largest value before the softmax of any head on the validation slice.",
      "largest attention logit", false,
      [](const RunData& r) -> const Series& { return r.attention_logit; }, "points");
  return charts;
}

}  // namespace osp
