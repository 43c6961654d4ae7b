#include "osp/report/heat_map.h"

#include <algorithm>
#include <cmath>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr size_t kColumns = 120;
constexpr size_t kHeatMapTableRows = 8;
// Heights in pixels: of a panel, its title, the gap between panels, above and below all.
constexpr double kPanelTitle = 24, kPanelGap = 12, kAbove = 74, kBelow = 48;
constexpr double kRow = 22, kLeastPanel = 90, kMostPanel = 520;
// More runs than this are shown one at a time.
constexpr size_t kMostPanels = 6;

// The height of a run's panel, by its own number of hidden states.
double panel_height(const RunData& run) {
  return std::clamp(kRow * static_cast<double>(run.kurtosis_per_layer.back().size()), kLeastPanel,
                    kMostPanel);
}

// The highest kurtosis of each layer over the validations [begin, end), so that no spike is lost.
std::vector<double> highest_of(const RunData& run, size_t begin, size_t end) {
  std::vector<double> highest;
  for (size_t i = begin; i < end; ++i) {
    const std::vector<double>& values = run.kurtosis_per_layer[i];
    highest.resize(std::max(highest.size(), values.size()), kNan);
    for (size_t layer = 0; layer < values.size(); ++layer) {
      if (!(highest[layer] >= values[layer]) && std::isfinite(values[layer])) {
        highest[layer] = values[layer];
      }
    }
  }
  return highest;
}

// One run's layers × tokens, as a panel of the heat map.
Json heat_trace(const RunData& run, const AsinhAxis& axis, const std::string& suffix,
                Extent& extent) {
  std::vector<double> tokens;
  std::vector<Json> rows, numbers;
  const size_t size = run.kurtosis_per_layer.size(), columns = std::min(size, kColumns);
  for (size_t column = 0; column < columns; ++column) {
    const size_t begin = column * size / columns, end = (column + 1) * size / columns;
    const std::vector<double> values = highest_of(run, begin, end);
    extent.include(values);
    tokens.push_back((run.kurtosis.tokens[begin] + run.kurtosis.tokens[end - 1]) / 2);
    rows.resize(std::max(rows.size(), values.size()), Json::array());
    numbers.resize(rows.size(), Json::array());
    const Json places = to_json_array(axis.place(values)), exact = to_json_array(values);
    for (size_t layer = 0; layer < values.size(); ++layer) {
      rows[layer].push_back(places[layer]);
      numbers[layer].push_back(exact[layer]);
    }
  }
  return {{"type", "heatmap"},
          {"name", escape_html(run.label)},
          {"x", to_json_array(tokens)},
          {"y", layer_names(rows.size())},
          {"z", rows},
          {"customdata", numbers},
          {"hovertemplate", "%{y}, %{x:,.0f} tokens: %{customdata:.3g}"},
          {"coloraxis", "coloraxis"},
          {"xaxis", "x" + suffix},
          {"yaxis", "y" + suffix},
          {"meta", {{"role", "heat"}}}};
}

// A few validations of each run, a column per layer.
HtmlTable heat_table(const std::vector<RunData>& runs) {
  HtmlTable table{{"run", "tokens"}, {}};
  size_t layers = 0;
  for (const RunData& run : runs) {
    if (run.kurtosis_per_layer.size() < 2) continue;
    for (const size_t i : spread_indices(run.kurtosis_per_layer.size(), kHeatMapTableRows)) {
      std::vector<std::string> row = {run.label,
                                      format_count(std::llround(run.kurtosis.tokens[i]))};
      for (const double value : run.kurtosis_per_layer[i]) row.push_back(format_number(value));
      layers = std::max(layers, run.kurtosis_per_layer[i].size());
      table.rows.push_back(row);
    }
  }
  for (const std::string& name : layer_names(layers)) table.header.push_back(name);
  return table;
}

Json colour_axis(const AsinhAxis& axis, const Extent& extent) {
  Json bar = axis.ticks(extent.low, extent.high);
  bar.erase("zeroline");
  bar.update({{"title", {{"text", "excess kurtosis"}, {"side", "top"}}},
              {"orientation", "h"},
              {"thickness", 10},
              {"y", 1},
              {"yanchor", "bottom"},
              {"ypad", 4},
              {"x", 0.5}});
  return {{"colorscale", "Cividis"},
          {"colorbar", bar},
          {"cmin", axis.place(extent.low)},
          {"cmax", axis.place(std::max(extent.high, extent.low + axis.scale))}};
}

// Panels on top of each other, the first run at the top, over one horizontal range.
void add_panels(const std::vector<const RunData*>& runs, const AsinhAxis& axis, double furthest,
                Chart& chart, Extent& extent) {
  Json annotations = Json::array();
  double inner = (static_cast<double>(runs.size()) - 1) * kPanelGap;
  for (const RunData* run : runs) inner += panel_height(*run) + kPanelTitle;
  // A panel per run: its trace, its axes and its name.
  double above = 0;  // pixels from the top of all panels
  for (size_t r = 0; r < runs.size(); ++r) {
    const std::string suffix = r == 0 ? "" : std::to_string(r + 1);
    const double top = 1 - (above + kPanelTitle) / inner;
    above += kPanelTitle + panel_height(*runs[r]);
    const double bottom = std::max(0.0, 1 - above / inner);
    above += kPanelGap;
    chart.traces.push_back(heat_trace(*runs[r], axis, suffix, extent));
    chart.layout["xaxis" + suffix] = {{"anchor", "y" + suffix}, {"range", {0, furthest}}};
    chart.layout["yaxis" + suffix] = {
        {"domain", {bottom, top}}, {"anchor", "x" + suffix}, {"type", "category"}};
    annotations.push_back({{"text", escape_html(runs[r]->label)},
                           {"xref", "paper"},
                           {"yref", "paper"},
                           {"x", 0},
                           {"y", top},
                           {"xanchor", "left"},
                           {"yanchor", "bottom"},
                           {"showarrow", false}});
    if (r + 1 < runs.size()) {
      chart.layout["xaxis" + suffix]["showticklabels"] = false;
    } else {
      chart.layout["xaxis" + suffix]["title"] = {{"text", "tokens trained on"}};
    }
  }
  chart.layout["annotations"] = annotations;
  chart.layout["height"] = inner + kAbove + kBelow;
}

// One run at a time.
void add_choices(const std::vector<const RunData*>& runs, const AsinhAxis& axis, double furthest,
                 Chart& chart, Extent& extent) {
  for (const RunData* run : runs) {
    Json trace = heat_trace(*run, axis, "", extent);
    trace["meta"]["choice"] = chart.choices.size();
    trace["meta"]["height"] = panel_height(*run) + kAbove + kBelow;
    chart.choices.push_back(run->label);
    chart.traces.push_back(std::move(trace));
  }
  chart.layout["xaxis"] = {{"range", {0, furthest}}, {"title", {{"text", "tokens trained on"}}}};
  chart.layout["yaxis"] = {{"type", "category"}};
}

}  // namespace

Chart kurtosis_heat_map(const std::vector<RunData>& all_runs) {
  std::vector<const RunData*> runs;
  for (const RunData& run : all_runs) {
    if (run.kurtosis_per_layer.size() > 1) runs.push_back(&run);
  }
  Chart chart{
      .id = "heat",
      .title = "Excess kurtosis by layer and tokens",
      .caption =
          "Where and when outliers grow: one panel per run, a row per hidden state, "
          "brighter is heavier. Colours are linear near 0, logarithmic beyond; a column has "
          "the highest value of the validations that it stands for.",
      .table = heat_table(all_runs),
      .wide = true};
  const AsinhAxis axis;
  Extent extent;
  double furthest = 0;
  for (const RunData* run : runs) furthest = std::max(furthest, run->tokens);
  if (runs.size() > kMostPanels) {
    add_choices(runs, axis, furthest, chart, extent);
  } else {
    add_panels(runs, axis, furthest, chart, extent);
  }
  chart.layout["coloraxis"] = colour_axis(axis, extent);
  return chart;
}

}  // namespace osp
