#include "osp/report/cost_charts.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "osp/report/chart_parts.h"
#include "osp/report/plain_names.h"
#include "osp/report/series.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

std::string nats(double value) {
  return std::isfinite(value) ? with_minus(fmt::format("{:.4f}", value)) : "–";
}

// One measurement at a time: each text, with its bits, is a choice of the chart.
size_t choice_of(const Measurement& at, const std::string& bits, Chart& chart) {
  return index_in(fmt::format("on {}, at {}", at.phrase(), bits), chart.choices);
}

// A choice of one is none.
Chart without_single_choice(Chart chart) {
  if (chart.choices.size() != 1) return chart;
  chart.choices.clear();
  for (Json& trace : chart.traces) trace["meta"].erase("choice");
  return chart;
}

// Divergence in the own basis and in random ones.
Chart tax_chart(const std::vector<RunData>& runs) {
  Chart chart{.id = "outlier-tax",
              .title = "The outlier tax",
              .caption =
                  "Divergence from the model at 16 bits when it is rounded to nearest, with a "
                  "Hadamard in front of the down projection, in its own basis and after random "
                  "rotations of the residual stream (bars: standard deviation over rotations, of a "
                  "model that stands for several seeds over these). The difference is what "
                  "outliers cost; nats per token, lower is better."};
  const std::vector<std::string> bases = {"own basis", "rotated"};
  chart.table.header = {"",      "measured on",     "own basis", "rotated", "outlier tax",
                        "share", "share of readers"};
  for (size_t r = 0; r < runs.size(); ++r) {
    const ReportedCost& cost = runs[r].cost;
    if (!std::isfinite(cost.tax)) continue;
    chart.traces.push_back(
        {{"type", "scatter"},
         {"mode", "lines+markers"},
         {"name", escape_html(runs[r].label)},
         {"x", escaped_list(bases)},
         {"y", to_json_array(std::vector<double>{cost.own, cost.rotated})},
         {"error_y",
          {{"type", "data"}, {"array", to_json_array(std::vector<double>{0, cost.deviation})}}},
         {"hovertemplate", "%{y:.4f}"},
         {"meta",
          {{"run", r}, {"role", "points"}, {"choice", choice_of(cost.at, cost.bits, chart)}}}});
    chart.table.rows.push_back({runs[r].label, cost.at.phrase(), nats(cost.own),
                                fmt::format("{} ± {}", nats(cost.rotated), nats(cost.deviation)),
                                fmt::format("{} ± {}", nats(cost.tax), nats(cost.error)),
                                with_minus(fmt::format("{:.1f} %", 100 * cost.share)),
                                std::isfinite(cost.readers_share)
                                    ? with_minus(fmt::format("{:.1f} %", 100 * cost.readers_share))
                                    : "–"});
  }
  chart.layout = {{"xaxis", {{"type", "category"}, {"title", {{"text", "basis of the model"}}}}},
                  {"yaxis", {{"title", {{"text", "nats per token"}}}, {"rangemode", "tozero"}}},
                  {"hovermode", "x unified"}};
  return chart;
}

// Each quantizer alone, over the sites.
Chart site_chart(const std::vector<RunData>& runs) {
  Chart chart{.id = "quantizer-cost",
              .title = "What each quantizer costs",
              .caption =
                  "Divergence with one kind of quantizer switched on in all layers, without "
                  "any transform; in the table also with all but that one. Nats per token."};
  chart.table.header = {"quantizer"};
  std::vector<std::string> sites;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (runs[r].cost.sites.empty()) continue;
    std::vector<std::string> names;
    std::vector<double> values;
    for (const ReportedCost::Site& site : runs[r].cost.sites) {
      names.push_back(plain_name(site.name));
      values.push_back(site.only);
      add_once(site.name, sites);
    }
    chart.table.header.push_back(runs[r].label + ", only this");
    chart.table.header.push_back(runs[r].label + ", all but this");
    const size_t choice = choice_of(runs[r].cost.sites_at, runs[r].cost.bits, chart);
    chart.traces.push_back(
        marks_trace(runs[r].label, escaped_list(names), values, "%{y:.4f}", r, choice));
  }
  for (const std::string& name : sites) {
    std::vector<std::string> row = {plain_name(name)};
    for (const RunData& run : runs) {
      if (run.cost.sites.empty()) continue;
      const ReportedCost::Site* found = nullptr;
      for (const ReportedCost::Site& site : run.cost.sites) {
        if (site.name == name) found = &site;
      }
      row.push_back(found ? nats(found->only) : "–");
      row.push_back(found ? nats(found->without) : "–");
    }
    chart.table.rows.push_back(row);
  }
  chart.layout = {{"xaxis", {{"type", "category"}, {"title", {{"text", "quantizer"}}}}},
                  {"yaxis", {{"title", {{"text", "nats per token"}}}, {"rangemode", "tozero"}}},
                  {"hovermode", "x unified"}};
  return chart;
}

// Kurtosis against divergence, the function fixed.
Chart basis_chart(const std::vector<RunData>& runs) {
  Chart chart{
      .id = "dose-response",
      .title = "The same function with more and with fewer outliers",
      .caption =
          "Each mark is the same model in another basis of its residual stream: its own "
          "(hollow), its principal axes on the channels (about the most outliers it can have), and "
          "those mixed in blocks of 4 and more. Across: excess kurtosis of what the "
          "layers read; up: divergence rounded to nearest, nats per token."};
  chart.table.header = {"basis"};
  std::vector<std::string> names;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (runs[r].cost.bases.empty()) continue;
    std::vector<double> x, y;
    std::vector<std::string> texts;
    Json hollow = Json::array();
    for (const ReportedCost::Basis& basis : runs[r].cost.bases) {
      x.push_back(basis.kurtosis);
      y.push_back(basis.divergence);
      texts.push_back(basis.name);
      hollow.push_back(basis.own());
      add_once(basis.name, names);
    }
    chart.table.header.push_back(runs[r].label + ", kurtosis");
    chart.table.header.push_back(runs[r].label + ", divergence");
    const size_t choice = choice_of(runs[r].cost.at, runs[r].cost.bits, chart);
    chart.traces.push_back(
        marks_trace(runs[r].label, to_json_array(x), y, "%{text}: %{y:.4f}", r, choice));
    chart.traces.back()["text"] = escaped_list(texts);
    chart.traces.back()["meta"]["hollow"] = hollow;
  }
  for (const std::string& name : names) {
    std::vector<std::string> row = {name};
    for (const RunData& run : runs) {
      if (run.cost.bases.empty()) continue;
      const ReportedCost::Basis* found = nullptr;
      for (const ReportedCost::Basis& basis : run.cost.bases) {
        if (basis.name == name) found = &basis;
      }
      row.push_back(found ? format_number(found->kurtosis) : "–");
      row.push_back(found ? nats(found->divergence) : "–");
    }
    chart.table.rows.push_back(row);
  }
  chart.layout = {{"xaxis", {{"title", {{"text", "excess kurtosis of the readers' inputs"}}}}},
                  {"yaxis", {{"title", {{"text", "nats per token"}}}, {"rangemode", "tozero"}}}};
  return chart;
}

}  // namespace

std::vector<Chart> cost_charts(const std::vector<RunData>& runs) {
  std::vector<Chart> charts;
  for (Chart& chart : std::vector<Chart>{tax_chart(runs), basis_chart(runs), site_chart(runs)}) {
    if (!chart.traces.empty()) charts.push_back(without_single_choice(std::move(chart)));
  }
  return charts;
}

}  // namespace osp
