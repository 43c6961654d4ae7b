// Attention sinks: the share of attention that each head gives to the first token, and how the
// logits before the softmax are spread.
#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/report/charts.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr double kRowHeight = 22;  // pixels

Json mass_trace(const RunData& run, size_t choice) {
  const auto& mass = run.sinks.first_token_mass;
  std::vector<Json> rows;
  std::vector<std::string> layers, heads;
  size_t widest = 0;
  for (size_t layer = 0; layer < mass.size(); ++layer) {
    rows.push_back(to_json_array(mass[layer]));
    layers.push_back(fmt::format("block {}", layer + 1));
    widest = std::max(widest, mass[layer].size());
  }
  for (size_t head = 0; head < widest; ++head) heads.push_back(std::to_string(head + 1));
  return {{"type", "heatmap"},
          {"name", escape_html(run.label)},
          {"x", heads},
          {"y", layers},
          {"z", rows},
          {"hovertemplate", "%{y}, head %{x}: %{z:.3f}"},
          {"coloraxis", "coloraxis"},
          {"meta", {{"role", "heat"}, {"choice", choice}}}};
}

Chart mass_chart(const std::vector<RunData>& runs) {
  Chart chart{.id = "sinks",
              .title = "Attention on the first token",
              .caption =
                  "Share of its attention that each head gives to the first token, mean over the "
                  "queries; a head near 1 is a sink.",
              .table = {{"model and block"}, {}}};
  size_t most_layers = 0, most_heads = 0;
  for (const RunData& run : runs) {
    const auto& mass = run.sinks.first_token_mass;
    if (mass.empty()) continue;
    chart.traces.push_back(mass_trace(run, chart.choices.size()));
    chart.choices.push_back(run.label);
    most_layers = std::max(most_layers, mass.size());
    for (size_t layer = 0; layer < mass.size(); ++layer) {
      std::vector<std::string> row = {fmt::format("{}, block {}", run.label, layer + 1)};
      for (const double value : mass[layer]) row.push_back(format_number(value));
      most_heads = std::max(most_heads, mass[layer].size());
      chart.table.rows.push_back(row);
    }
  }
  for (size_t head = 0; head < most_heads; ++head) {
    chart.table.header.push_back(fmt::format("head {}", head + 1));
  }
  for (auto& row : chart.table.rows) row.resize(chart.table.header.size(), "–");
  const Json bar = {{"title", {{"text", "share"}, {"side", "top"}}},
                    {"orientation", "h"},
                    {"thickness", 10},
                    {"y", 1},
                    {"yanchor", "bottom"},
                    {"x", 0.5}};
  chart.layout = {
      {"xaxis", {{"title", {{"text", "head"}}}, {"type", "category"}, {"constrain", "domain"}}},
      {"yaxis", {{"type", "category"}, {"autorange", "reversed"}}},
      {"coloraxis", {{"colorscale", "Cividis"}, {"colorbar", bar}, {"cmin", 0}, {"cmax", 1}}},
      {"height", std::max(340.0, kRowHeight * static_cast<double>(most_layers) + 130)}};
  return chart;
}

// Densities of the logits of one layer, a curve per model, a choice per layer.
Chart logit_chart(const std::vector<RunData>& runs, size_t max_bins) {
  Chart chart{
      .id = "logits",
      .title = "How attention logits are spread",
      .caption =
          "Density of the logits before the softmax, over the heads of a block and all "
          "pairs of tokens that see each other, on a logarithmic axis.",
      .table = {{"block and model", "lowest", "mean", "standard deviation", "highest"}, {}}};
  for (size_t r = 0; r < runs.size(); ++r) {
    for (const Histogram& all_bins : runs[r].sinks.logits) {
      const Histogram histogram = fewer_bins(all_bins, max_bins);
      const std::string name =
          histogram.layer < 0 ? "all blocks" : fmt::format("block {}", histogram.layer + 1);
      double total = 0;
      for (const double count : histogram.counts) total += std::isfinite(count) ? count : 0;
      const double bin =
          (histogram.high - histogram.low) / static_cast<double>(histogram.counts.size());
      if (!(total > 0) || !(bin > 0)) continue;
      std::vector<double> densities;
      for (const double count : histogram.counts) {
        densities.push_back(count > 0 ? count / total / bin : kNan);
      }
      add_once(name, chart.choices);
      const auto choice = std::find(chart.choices.begin(), chart.choices.end(), name);
      chart.traces.push_back({{"type", "scatter"},
                              {"mode", "lines"},
                              {"name", escape_html(runs[r].label)},
                              {"y", to_json_array(densities)},
                              {"hovertemplate", "%{x:.3g}: %{y:.2e}"},
                              {"meta",
                               {{"run", r},
                                {"role", "line"},
                                {"choice", choice - chart.choices.begin()},
                                {"grid", {{"low", histogram.low + 0.5 * bin}, {"step", bin}}}}}});
      chart.table.rows.push_back({name + ", " + runs[r].label, format_number(histogram.low),
                                  format_number(histogram.mean), format_number(histogram.std),
                                  format_number(histogram.high)});
    }
  }
  chart.layout = {{"xaxis", {{"title", {{"text", "attention logit"}}}}},
                  {"yaxis",
                   {{"title", {{"text", "density"}}},
                    {"type", "log"},
                    {"exponentformat", "power"},
                    {"dtick", 2}}},
                  {"hovermode", "closest"}};
  return chart;
}

}  // namespace

std::vector<Chart> sink_charts(const std::vector<RunData>& runs, size_t max_bins) {
  std::vector<Chart> charts;
  for (const Chart& chart : {mass_chart(runs), logit_chart(runs, max_bins)}) {
    if (!chart.traces.empty()) charts.push_back(chart);
  }
  return charts;
}

}  // namespace osp
