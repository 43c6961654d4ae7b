#include "osp/report/model_charts.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/heat_map.h"
#include "osp/report/plain_names.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

// Reach in standard deviations beyond which a linear axis would squeeze the Gaussian into a line.
constexpr double kLinearReach = 40;
constexpr size_t kGaussianPoints = 161;

size_t most_layers(const std::vector<RunData>& runs) {
  size_t layers = 0;
  for (const RunData& run : runs) {
    layers = std::max(layers, run.outliers().kurtosis_per_layer.size());
  }
  return layers;
}

// The kurtosis of each layer, a column per run.
HtmlTable layer_table(const std::vector<RunData>& runs, size_t layers) {
  HtmlTable table{{"layer"}, {}};
  for (const RunData& run : runs) table.header.push_back(run.label);
  for (size_t layer = 0; layer < layers; ++layer) {
    std::vector<std::string> row = {layer_name(layer)};
    for (const RunData& run : runs) {
      const auto& values = run.outliers().kurtosis_per_layer;
      row.push_back(layer < values.size() ? format_number(values[layer]) : "–");
    }
    table.rows.push_back(row);
  }
  return table;
}

Chart kurtosis_by_layer(const std::vector<RunData>& runs, size_t layers) {
  Chart chart{.id = "layers",
              .title = "Excess kurtosis by layer",
              .caption =
                  "Every hidden state of the finished model: after the embedding and after each "
                  "block. The axis is linear near 0 and logarithmic beyond."};
  // A curve per run, on an axis for all of them.
  const AsinhAxis axis;
  Extent extent;
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto& values = runs[r].outliers().kurtosis_per_layer;
    if (values.empty()) continue;
    extent.include(values);
    chart.traces.push_back({{"type", "scatter"},
                            {"mode", "lines+markers"},
                            {"name", escape_html(runs[r].label)},
                            {"x", layer_names(values.size())},
                            {"y", to_json_array(axis.place(values))},
                            {"customdata", to_json_array(values)},
                            {"hovertemplate", "%{customdata:.3g}"},
                            {"meta", {{"run", r}, {"role", "points"}}}});
  }
  chart.layout = {{"xaxis", {{"title", {{"text", "hidden state"}}}, {"type", "category"}}},
                  {"yaxis", {{"title", {{"text", "excess kurtosis"}}}}},
                  {"hovermode", "x unified"}};
  chart.layout["yaxis"].update(axis.ticks(extent.low, extent.high));
  chart.table = layer_table(runs, layers);
  return chart;
}

// A histogram as density in units of its own standard deviation.
struct Density {
  std::vector<double> sigmas;     // bin centres
  std::vector<double> densities;  // NaN for an empty bin: a logarithm has no place for it
};

Density to_density(const ReportedHistogram& histogram) {
  Density density;
  double total = 0;
  for (const double count : histogram.counts) total += std::isfinite(count) ? count : 0;
  const double bins = static_cast<double>(histogram.counts.size());
  const double bin = (histogram.high - histogram.low) / bins;
  if (!(histogram.std > 0) || !(total > 0) || !(bin > 0)) return density;
  for (size_t i = 0; i < histogram.counts.size(); ++i) {
    const double centre = histogram.low + (static_cast<double>(i) + 0.5) * bin;
    const double value = histogram.counts[i] / total / bin * histogram.std;
    density.sigmas.push_back((centre - histogram.mean) / histogram.std);
    density.densities.push_back(value > 0 ? value : std::nan(""));
  }
  return density;
}

Density gaussian(double lowest_density) {
  Density density;
  const double peak = 1 / std::sqrt(2 * std::numbers::pi);
  // Reach down to the density of the rarest bin: exp(-x²/2) * peak = lowest.
  const double reach = std::sqrt(2 * std::log(peak / std::min(lowest_density, 0.5 * peak)));
  for (size_t i = 0; i < kGaussianPoints; ++i) {
    const double x = reach * (2.0 * static_cast<double>(i) / (kGaussianPoints - 1) - 1);
    density.sigmas.push_back(x);
    density.densities.push_back(peak * std::exp(-x * x / 2));
  }
  return density;
}

bool is_state(const ReportedHistogram& histogram) { return histogram.point == "residual"; }

std::string histogram_name(const ReportedHistogram& histogram) {
  const auto layer = static_cast<size_t>(std::max<int64_t>(histogram.layer, 0));
  if (is_state(histogram)) return "hidden state: " + layer_name(layer);
  return fmt::format("{}, block {}", shorten(plain_name(histogram.point), 60), layer + 1);
}

// The largest distance from the mean of a non-empty bin, in standard deviations.
double reach_of(const Density& density) {
  double reach = 0;
  for (size_t i = 0; i < density.sigmas.size(); ++i) {
    if (density.densities[i] > 0) reach = std::max(reach, std::abs(density.sigmas[i]));
  }
  return reach;
}

// The Gaussian, point by point. (A histogram's points have equal distances, so that its trace holds
// only their grid and the page computes them.)
Json gaussian_trace(const Density& density, bool bent) {
  const AsinhAxis axis{.scale = 1};
  return {{"type", "scatter"},
          {"mode", "lines"},
          {"name", "Gaussian of the same variance"},
          {"x", to_json_array(bent ? axis.place(density.sigmas) : density.sigmas)},
          {"y", to_json_array(density.densities)},
          {"customdata", to_json_array(density.sigmas)},
          {"hovertemplate", "%{customdata:.2f} σ: %{y:.2e}"},
          {"meta", {{"role", "reference"}}}};
}

Json density_trace(const Density& density, const std::string& label, size_t run, size_t choice) {
  const double step = density.sigmas.size() > 1 ? density.sigmas[1] - density.sigmas[0] : 0;
  return {{"type", "scatter"},
          {"mode", "lines"},
          {"name", escape_html(label)},
          {"y", to_json_array(density.densities)},
          {"hovertemplate", "%{customdata:.2f} σ: %{y:.2e}"},
          {"meta",
           {{"run", run},
            {"role", "line"},
            {"choice", choice},
            {"grid", {{"low", density.sigmas[0]}, {"step", step}}}}}};
}

Chart histogram_chart(const std::vector<RunData>& runs, size_t max_bins) {
  Chart chart{.id = "histogram",
              .title = "Distribution of activations",
              .caption =
                  "Density of the entries of one hidden state on a logarithmic axis, each run "
                  "in units of its own standard deviation, beside a Gaussian of the same "
                  "variance: tails that reach beyond it are outliers.",
              .table = {{"state and run", "mean", "standard deviation", "reaches (σ)"}, {}},
              .wide = true};
  // A trace per histogram, a choice per hidden state.
  std::map<std::string, size_t> numbers;
  double reach = 0, lowest = 1, furthest_state = 0;
  for (size_t r = 0; r < runs.size(); ++r) {
    for (const ReportedHistogram& histogram : runs[r].histograms) {
      const Density density = to_density(fewer_bins(histogram, max_bins));
      if (density.sigmas.empty()) continue;
      const std::string name = histogram_name(histogram);
      const auto [choice, is_new] = numbers.try_emplace(name, chart.choices.size());
      if (is_new) chart.choices.push_back(name);
      if (is_state(histogram) && reach_of(density) > furthest_state) {
        furthest_state = reach_of(density);
        chart.default_choice = choice->second;  // the hidden state with the furthest outlier
      }
      reach = std::max(reach, reach_of(density));
      for (const double value : density.densities) {
        if (value > 0) lowest = std::min(lowest, value);
      }
      chart.table.rows.push_back({name + ", " + runs[r].label, format_number(histogram.mean),
                                  format_number(histogram.std), format_number(reach_of(density))});
      chart.traces.push_back(density_trace(density, runs[r].label, r, choice->second));
    }
  }
  // Bend the axis where tails reach far, and add the Gaussian.
  const bool bent = reach > kLinearReach;
  if (bent) {
    for (Json& trace : chart.traces) trace["meta"]["grid"]["bend"] = 1;
  }
  chart.traces.push_back(gaussian_trace(gaussian(lowest), bent));
  chart.layout = {{"xaxis", {{"title", {{"text", "standard deviations from the mean"}}}}},
                  {"yaxis", {{"title", {{"text", "density"}}}}},
                  {"hovermode", "closest"}};
  chart.layout["yaxis"].update(log_ticks(lowest, 1));
  if (bent) chart.layout["xaxis"].update(AsinhAxis{.scale = 1}.ticks(-reach, reach, {1, 3}));
  return chart;
}

}  // namespace

std::vector<Chart> model_charts(const std::vector<RunData>& runs, size_t max_bins) {
  const auto any = [&](auto holds) { return std::any_of(runs.begin(), runs.end(), holds); };
  std::vector<Chart> charts;
  const size_t layers = most_layers(runs);
  if (layers > 0) charts.push_back(kurtosis_by_layer(runs, layers));
  if (any([](const RunData& run) { return run.kurtosis_per_layer.size() > 1; })) {
    charts.push_back(kurtosis_heat_map(runs));
  }
  if (any([](const RunData& run) { return !run.histograms.empty(); })) {
    charts.push_back(histogram_chart(runs, max_bins));
  }
  return charts;
}

}  // namespace osp
