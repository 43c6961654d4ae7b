#include "osp/report/sink_charts.h"

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr double kRowHeight = 24;          // pixels
constexpr size_t kMostNumbersInARow = 16;  // cells of longer rows are too small for a number
// Least share of the brightest colour, so that a model without sinks looks dark.
constexpr double kLeastColourReach = 0.3;

Json share_trace(const std::string& label, const std::vector<std::vector<double>>& mass,
                 size_t choice) {
  std::vector<Json> rows;
  std::vector<std::string> layers, heads;
  size_t widest = 0;
  for (size_t layer = 0; layer < mass.size(); ++layer) {
    rows.push_back(to_json_array(mass[layer]));
    layers.push_back(std::to_string(layer + 1));
    widest = std::max(widest, mass[layer].size());
  }
  const double height = std::max(200.0, kRowHeight * static_cast<double>(mass.size()) + 130);
  for (size_t head = 0; head < widest; ++head) heads.push_back(std::to_string(head + 1));
  return {{"type", "heatmap"},
          {"name", escape_html(label)},
          {"x", heads},
          {"y", layers},
          {"z", rows},
          {"hovertemplate", "block %{y}, head %{x}: %{z:.3f}"},
          {"texttemplate", widest <= kMostNumbersInARow ? "%{z:.2f}" : ""},
          {"coloraxis", "coloraxis"},
          {"meta", {{"role", "heat"}, {"choice", choice}, {"height", height}}}};
}

Chart share_chart(const std::vector<RunData>& runs) {
  Chart chart{.id = "sinks",
              .title = "Attention on the first token",
              .caption =
                  "Share of its attention that each head gives to the first token, or to whichever "
                  "token gets most of it, mean over queries and sequences. A head whose share is "
                  "near 1 is a sink head.",
              .table = {{"model and block"}, {}}};
  size_t most_heads = 0;
  double highest = kLeastColourReach;
  const auto add = [&](const std::string& name, const std::vector<std::vector<double>>& shares) {
    if (shares.empty()) return;
    chart.traces.push_back(share_trace(name, shares, chart.choices.size()));
    chart.choices.push_back(name);
    for (size_t layer = 0; layer < shares.size(); ++layer) {
      std::vector<std::string> row = {fmt::format("{}, block {}", name, layer + 1)};
      for (const double value : shares[layer]) {
        row.push_back(format_number(value));
        if (value > highest) highest = value;
      }
      most_heads = std::max(most_heads, shares[layer].size());
      chart.table.rows.push_back(row);
    }
  };
  // Two choices per model.
  for (const RunData& run : runs) add(run.label + ": first token", run.sinks.first_share);
  for (const RunData& run : runs) add(run.label + ": strongest token", run.sinks.strongest_share);
  // Columns for the model with the most heads, and the colour scale.
  for (size_t head = 0; head < most_heads; ++head) {
    chart.table.header.push_back(fmt::format("head {}", head + 1));
  }
  for (auto& row : chart.table.rows) row.resize(chart.table.header.size(), "–");
  const Json bar = {{"title", {{"text", "share of attention"}, {"side", "top"}}},
                    {"orientation", "h"},
                    {"thickness", 10},
                    {"y", 1},
                    {"yanchor", "bottom"},
                    {"ypad", 4},
                    {"x", 0.5}};
  chart.layout = {{"xaxis", {{"title", {{"text", "head"}}}, {"type", "category"}}},
                  {"yaxis", {{"title", {{"text", "block"}}}, {"type", "category"}}},
                  {"coloraxis",
                   {{"colorscale", "Cividis"}, {"colorbar", bar}, {"cmin", 0}, {"cmax", highest}}}};
  return chart;
}

double sum_of(const ReportedHistogram& histogram) {
  double total = 0;
  for (const double count : histogram.counts) total += std::isfinite(count) ? count : 0;
  return total;
}

// The density of a histogram as a trace; null if it is empty.
Json logit_trace(const ReportedHistogram& all_bins, size_t max_bins, const std::string& name,
                 size_t run, const char* role, size_t choice) {
  const ReportedHistogram histogram = fewer_bins(all_bins, max_bins);
  const double total = sum_of(histogram);
  const double bin =
      (histogram.high - histogram.low) / static_cast<double>(histogram.counts.size());
  if (!(total > 0) || !(bin > 0)) return nullptr;
  std::vector<double> densities;
  for (const double count : histogram.counts) {
    densities.push_back(count > 0 ? count / total / bin : kNan);
  }
  return {{"type", "scatter"},
          {"mode", "lines"},
          {"name", escape_html(name)},
          {"y", to_json_array(densities)},
          {"hovertemplate", "%{x:.3g}: %{y:.2e}"},
          {"meta",
           {{"run", run},
            {"role", role},
            {"choice", choice},
            {"grid", {{"low", histogram.low + 0.5 * bin}, {"step", bin}}}}}};
}

// Name, range and mean of a histogram, from the middles of its bins.
std::vector<std::string> logit_row(const std::string& name, const ReportedHistogram& histogram) {
  const double total = sum_of(histogram);
  const double bin =
      (histogram.high - histogram.low) / static_cast<double>(histogram.counts.size());
  double mean = 0;
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    const double middle = histogram.low + (static_cast<double>(i) + 0.5) * bin;
    if (std::isfinite(histogram.counts[i])) mean += middle * histogram.counts[i] / total;
  }
  return {name, format_number(histogram.low), format_number(mean), format_number(histogram.high)};
}

// A curve per model for the first token and for the others, a choice per block.
Chart logit_chart(const std::vector<RunData>& runs, size_t max_bins) {
  Chart chart{.id = "logits",
              .title = "Distribution of attention logits",
              .caption =
                  "Density of the logits before the softmax, over the heads of a block, on a "
                  "logarithmic axis: towards the first token (thin) and towards all others "
                  "(thick).",
              .table = {{"block and model", "lowest", "mean", "highest"}, {}}};
  for (size_t r = 0; r < runs.size(); ++r) {
    for (const LogitHistograms& block : runs[r].sinks.logits) {
      const std::string name = fmt::format("block {}", block.layer + 1);
      const size_t choice = index_in(name, chart.choices);
      const auto add = [&](const ReportedHistogram& histogram, const char* towards,
                           const char* role) {
        const std::string label = runs[r].label + ": " + towards;
        const Json trace = logit_trace(histogram, max_bins, label, r, role, choice);
        if (trace.is_null()) return;
        chart.traces.push_back(trace);
        chart.table.rows.push_back(logit_row(name + ", " + label, histogram));
      };
      add(block.others, "other tokens", "line");
      add(block.first, "first token", "level");
    }
  }
  chart.layout = {{"xaxis", {{"title", {{"text", "attention logit"}}}}},
                  {"yaxis", {{"title", {{"text", "density per unit of logit"}}}}},
                  {"hovermode", "closest"}};
  // The axis covers all densities.
  Extent densities;
  for (const Json& trace : chart.traces) {
    for (const Json& value : trace["y"]) {
      if (value.is_number()) densities.include(value.get<double>());
    }
  }
  if (densities.found) chart.layout["yaxis"].update(log_ticks(densities.low, densities.high));
  return chart;
}

}  // namespace

std::vector<Chart> sink_charts(const std::vector<RunData>& runs, size_t max_bins) {
  std::vector<Chart> charts;
  for (const Chart& chart : {share_chart(runs), logit_chart(runs, max_bins)}) {
    if (!chart.traces.empty()) charts.push_back(chart);
  }
  return charts;
}

}  // namespace osp
