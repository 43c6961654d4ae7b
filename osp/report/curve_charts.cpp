// Charts of values against tokens: outliers while training, losses, and what explains them.
#include <algorithm>
#include <cmath>
#include <functional>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/report/charts.h"
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

// Tokens and values of evenly spread points: one column per run where all were measured at the same
// tokens, else a row per run and point.
HtmlTable curve_table(const std::vector<RunData>& runs, const std::vector<Series>& curves) {
  const bool together = std::all_of(curves.begin(), curves.end(), [&](const Series& curve) {
    return curve.tokens == curves[0].tokens;
  });
  HtmlTable table;
  if (together) {
    table.header = {"tokens"};
    for (const RunData& run : runs) table.header.push_back(run.label);
    for (const size_t i : spread_indices(curves[0].size(), kCurveTableRows)) {
      std::vector<std::string> row = {format_count(std::llround(curves[0].tokens[i]))};
      for (const Series& curve : curves) row.push_back(format_number(curve.values[i]));
      table.rows.push_back(row);
    }
    return table;
  }
  table.header = {"run", "tokens", "value"};
  for (size_t r = 0; r < runs.size(); ++r) {
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

Json token_axis() { return {{"title", {{"text", "tokens trained on"}}}, {"rangemode", "tozero"}}; }

// Then whole powers of ten are enough; otherwise plotly chooses finer steps itself.
bool spans_decades(const std::vector<RunData>& runs, const SeriesOf& series_of) {
  Extent extent;
  for (const RunData& run : runs) extent.include(series_of(run).values);
  return extent.low > 0 && extent.high >= 10 * extent.low;
}

Chart curve_chart(const std::string& id, const std::string& title, const std::string& caption,
                  const std::string& unit, bool logarithmic, const std::vector<RunData>& runs,
                  const SeriesOf& series_of, const std::string& role, size_t max_points) {
  Chart chart{.id = id, .title = title, .caption = caption};
  std::vector<Series> curves;
  for (size_t r = 0; r < runs.size(); ++r) {
    curves.push_back(series_of(runs[r]));
    chart.traces.push_back(line_trace(runs[r], r, thin(curves[r], max_points), role));
  }
  chart.layout = {{"xaxis", token_axis()},
                  {"yaxis", {{"title", {{"text", unit}}}}},
                  {"hovermode", "x unified"}};
  if (logarithmic) chart.layout["yaxis"]["type"] = "log";
  if (logarithmic && spans_decades(runs, series_of)) chart.layout["yaxis"]["dtick"] = 1;
  chart.table = curve_table(runs, curves);
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
  for (size_t r = 0; r < runs.size(); ++r) {
    const Series curve = thin(runs[r].kurtosis, max_points);
    extent.include(curve.values);
    Json& trace = chart.traces[r];
    trace["y"] = to_json_array(axis.place(curve.values));
    trace["customdata"] = to_json_array(curve.values);
    trace["hovertemplate"] = "%{customdata:.3g}";
  }
  chart.layout["yaxis"].update(axis.ticks(extent.low, extent.high));
  return chart;
}

// Every logged value faintly, and its running mean on top.
void add_running_mean(Chart& chart, const std::vector<RunData>& runs, const SeriesOf& series_of,
                      size_t max_points) {
  std::vector<Series> smoothed;
  for (size_t r = 0; r < runs.size(); ++r) {
    const Series& series = series_of(runs[r]);
    smoothed.push_back(smooth(series, smoothing_window(series.size())));
    chart.traces[r].update({{"showlegend", false}, {"hoverinfo", "skip"}});
    chart.traces.push_back(line_trace(runs[r], r, thin(smoothed[r], max_points), "line"));
  }
  chart.caption +=
      " Each logged step faintly, the mean over the nearest fiftieth of the run in full "
      "colour.";
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

double AsinhAxis::place(double value) const { return std::asinh(value / scale); }

std::vector<double> AsinhAxis::place(const std::vector<double>& values) const {
  std::vector<double> places;
  for (const double value : values) places.push_back(place(value));
  return places;
}

Json AsinhAxis::ticks(double low, double high, const std::vector<double>& mantissas) const {
  std::vector<double> positive;
  const double reach = std::max({std::abs(low), std::abs(high), scale});
  for (double decade = scale; positive.empty() || positive.back() < reach; decade *= 10) {
    for (const double mantissa : mantissas) {
      if (positive.empty() || positive.back() < reach) positive.push_back(decade * mantissa);
    }
  }
  std::vector<double> values = {0};
  for (const double tick : positive) {
    const bool first = tick == positive.front();
    if (first || tick / 10 < high) values.push_back(tick);
    if (tick / 10 < -low || (first && low < 0)) values.insert(values.begin(), -tick);
  }
  Json places = Json::array(), names = Json::array();
  for (const double value : values) {
    places.push_back(round_significant(place(value)));
    const std::string name = format_number(std::abs(value));
    names.push_back(value < 0 ? "−" + name : name);
  }
  return {{"tickmode", "array"}, {"tickvals", places}, {"ticktext", names}, {"zeroline", true}};
}

void Extent::include(double value) {
  if (!std::isfinite(value)) return;
  low = found ? std::min(low, value) : value;
  high = found ? std::max(high, value) : value;
  found = true;
}

void Extent::include(const std::vector<double>& values) {
  for (const double value : values) include(value);
}

std::string layer_name(size_t layer) {
  return layer == 0 ? "embedding" : fmt::format("block {}", layer);
}

std::vector<std::string> layer_names(size_t count) {
  std::vector<std::string> names;
  for (size_t layer = 0; layer < count; ++layer) names.push_back(layer_name(layer));
  return names;
}

std::vector<size_t> spread_indices(size_t size, size_t count) {
  std::vector<size_t> indices;
  if (size <= count) {
    for (size_t i = 0; i < size; ++i) indices.push_back(i);
    return indices;
  }
  OSP_CHECK(count >= 2, "{} of {} points", count, size);
  for (size_t i = 0; i < count; ++i) indices.push_back(i * (size - 1) / (count - 1));
  return indices;
}

}  // namespace osp
