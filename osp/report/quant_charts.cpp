#include "osp/report/quant_charts.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/plain_names.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr double kPixelsPerLayer = 16;
constexpr double kPixelsPerMethod = 44;

// The data that any of the models was measured on, in order of appearance: an alternative
// of a chart each.
std::vector<Measurement> all_measurements(const std::vector<RunData>& runs) {
  std::vector<Measurement> all;
  std::vector<std::string> keys;
  for (const RunData& run : runs) {
    for (const EvalResult& result : run.evaluation) {
      if (std::isfinite(result.perplexity) && add_once(result.at.key(), keys)) {
        all.push_back(result.at);
      }
    }
  }
  return all;
}

// The curves and rows of one measurement.
void add_bits_choice(const std::vector<RunData>& runs, const Measurement& at, Chart& chart,
                     std::vector<std::string>& all_bits, Extent& extent) {
  const size_t choice = chart.choices.size();
  chart.choices.push_back("on " + at.phrase());
  for (size_t r = 0; r < runs.size(); ++r) {
    std::vector<std::string> bits;
    std::vector<double> values;
    for (const EvalResult& result : runs[r].evaluation) {
      if (!std::isfinite(result.perplexity) || result.at.key() != at.key()) continue;
      bits.push_back(result.bits);
      values.push_back(result.perplexity);
      add_once(result.bits, all_bits);
      chart.table.rows.push_back(
          {runs[r].label, at.phrase(), result.bits, format_number(result.perplexity)});
    }
    if (bits.empty()) continue;
    extent.include(values);
    chart.traces.push_back({{"type", "scatter"},
                            {"mode", "lines+markers"},
                            {"name", escape_html(runs[r].label)},
                            {"x", escaped_list(bits)},
                            {"y", to_json_array(values)},
                            {"meta", {{"run", r}, {"role", "points"}, {"choice", choice}}}});
  }
}

Chart bits_chart(const std::vector<RunData>& runs) {
  Chart chart{.id = "bits",
              .title = "Perplexity against bits",
              .caption =
                  "Perplexity with weights, activations and key-value cache rounded to nearest at "
                  "each number of bits (16: not rounded), on one text at a time; lower is better.",
              .table = {{"", "measured on", "bits", "perplexity"}, {}}};
  Extent extent;
  std::vector<std::string> all_bits;
  for (const Measurement& at : all_measurements(runs)) {
    add_bits_choice(runs, at, chart, all_bits, extent);
  }
  chart.layout = {{"xaxis",
                   {{"title", {{"text", "bits: weights-activations-cache"}}},
                    {"type", "category"},
                    {"categoryorder", "array"},
                    {"categoryarray", escaped_list(all_bits)}}},
                  {"yaxis", {{"title", {{"text", "perplexity"}}}}},
                  {"hovermode", "x unified"}};
  // A logarithmic axis where values differ widely.
  if (extent.low > 0 && extent.high > 20 * extent.low) {
    chart.layout["yaxis"].update(log_ticks(extent.low, extent.high));
  }
  return chart;
}

// The mean over seeds and, for several, their standard deviation.
struct SeedSpread {
  double mean = kNan;
  double deviation = kNan;
};

SeedSpread spread(const std::vector<double>& values) {
  if (values.empty()) return {};
  const double count = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  const double mean = sum / count;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (count - 1)) : kNan};
}

// A number of bits and what it was measured on: the methods there can be compared.
struct MethodGroup {
  std::string bits;
  Measurement at;
  bool has(const QuantizedResult& result) const {
    return result.bits == bits && result.at.key() == at.key() && std::isfinite(result.perplexity);
  }
};

std::vector<MethodGroup> method_groups(const std::vector<RunData>& runs) {
  std::vector<MethodGroup> groups;
  std::vector<std::string> keys;
  for (const RunData& run : runs) {
    for (const QuantizedResult& result : run.quantized) {
      if (!std::isfinite(result.perplexity)) continue;
      if (add_once(result.bits + " " + result.at.key(), keys)) {
        groups.push_back({result.bits, result.at});
      }
    }
  }
  return groups;
}

// One number of every result (seed) of a method; of all methods if it is "".
std::vector<double> values_of(const RunData& run, const MethodGroup& group,
                              const std::string& method, double QuantizedResult::*member) {
  std::vector<double> values;
  for (const QuantizedResult& result : run.quantized) {
    if (group.has(result) && (method.empty() || result.method == method) &&
        std::isfinite(result.*member)) {
      values.push_back(result.*member);
    }
  }
  return values;
}

std::string method_cell(const RunData& run, const MethodGroup& group, const std::string& method) {
  const SeedSpread perplexity = spread(values_of(run, group, method, &QuantizedResult::perplexity));
  if (!std::isfinite(perplexity.mean)) return "–";
  std::string text = format_number(perplexity.mean);
  if (std::isfinite(perplexity.deviation)) text += " ± " + format_number(perplexity.deviation);
  const SeedSpread divergence = spread(values_of(run, group, method, &QuantizedResult::divergence));
  return std::isfinite(divergence.mean) ? text + " (" + format_number(divergence.mean) + ")" : text;
}

Json method_trace(const std::string& name, const std::vector<std::string>& methods,
                  const std::vector<double>& values, Json meta) {
  const bool level = meta["role"] == "level";
  return {{"type", "scatter"},          {"mode", level ? "lines" : "markers"},
          {"name", escape_html(name)},  {"x", escaped_list(methods)},
          {"y", to_json_array(values)}, {"hovertemplate", "%{y:.4g}"},
          {"meta", std::move(meta)}};
}

void add_method_choice(const std::vector<RunData>& runs, const MethodGroup& group, Chart& chart,
                       Extent& extent) {
  const size_t choice = chart.choices.size();
  chart.choices.push_back("at " + group.bits + " bits, on " + group.at.phrase());
  // Rows of the table.
  std::vector<std::string> methods;
  for (const RunData& run : runs) {
    for (const QuantizedResult& result : run.quantized) {
      if (group.has(result)) add_once(result.method, methods);
    }
  }
  for (const std::string& method : methods) {
    std::vector<std::string> row = {method, group.bits, group.at.phrase()};
    for (const RunData& run : runs) row.push_back(method_cell(run, group, method));
    chart.table.rows.push_back(row);
  }
  // Marks per model, and a line at its perplexity with 16 bits on the same text.
  for (size_t r = 0; r < runs.size(); ++r) {
    std::vector<double> means, deviations;
    for (const std::string& method : methods) {
      const SeedSpread found =
          spread(values_of(runs[r], group, method, &QuantizedResult::perplexity));
      means.push_back(found.mean);
      deviations.push_back(found.deviation);
      extent.include(found.mean);
    }
    if (values_of(runs[r], group, "", &QuantizedResult::perplexity).empty()) continue;
    chart.traces.push_back(method_trace(runs[r].label, methods, means,
                                        {{"run", r}, {"role", "marks"}, {"choice", choice}}));
    chart.traces.back()["error_y"] = {{"type", "data"}, {"array", to_json_array(deviations)}};
    const double full = spread(values_of(runs[r], group, "", &QuantizedResult::perplexity_16)).mean;
    if (!std::isfinite(full)) continue;
    extent.include(full);
    chart.traces.push_back(method_trace(runs[r].label + ", 16 bits", methods,
                                        std::vector<double>(methods.size(), full),
                                        {{"run", r}, {"role", "level"}, {"choice", choice}}));
  }
}

Chart method_chart(const std::vector<RunData>& runs, const std::vector<MethodGroup>& groups) {
  Chart chart{.id = "methods",
              .title = "Perplexity by quantization method",
              .caption =
                  "Perplexity after quantizing with each method (marks; bars are the standard "
                  "deviation over seeds) and at 16 bits (lines), on one text at a time; lower is "
                  "better. In the table, in brackets: Kullback–Leibler divergence from the model "
                  "at 16 bits, nats per token."};
  chart.pixels_per_category = kPixelsPerMethod;
  chart.table.header = {"method", "bits", "measured on"};
  for (const RunData& run : runs) chart.table.header.push_back(run.label);
  Extent extent;
  for (const MethodGroup& group : groups) add_method_choice(runs, group, chart, extent);
  chart.layout = {{"xaxis", {{"title", {{"text", "method"}}}, {"type", "category"}}},
                  {"yaxis", {{"title", {{"text", "perplexity"}}}}},
                  {"hovermode", "x unified"}};
  if (extent.low > 0 && extent.high > 10 * extent.low) {
    chart.layout["yaxis"].update(log_ticks(extent.low, extent.high));
  }
  return chart;
}

// "model.layers.3.self_attn.q_proj.weight" is "block 4: q_proj"; other names stay.
std::string short_layer_name(const std::string& name) {
  const size_t start = name.find("layers.");
  if (start == std::string::npos) return shorten(name, 60);
  const size_t digits = start + 7;
  const size_t end = name.find_first_not_of("0123456789", digits);
  if (end == digits || end == std::string::npos || end - digits > 6) return shorten(name, 60);
  std::string part = name.substr(end + 1);
  if (part.ends_with(".weight")) part.resize(part.size() - 7);
  if (part.rfind('.') != std::string::npos) part = part.substr(part.rfind('.') + 1);
  return fmt::format("block {}: {}", std::stoi(name.substr(digits, end - digits)) + 1,
                     shorten(part, 40));
}

// A curve over a model's layers, shown for one choice.
struct LayerCurve {
  size_t run;
  std::string choice;
  const std::vector<LayerNoise>* layers;
};

// One chart over layers: a choice per method, a curve per model.
Chart layer_chart(Chart chart, const std::string& unit, const std::vector<RunData>& runs,
                  const std::vector<LayerCurve>& curves, double LayerNoise::*member) {
  chart.wide = true;
  chart.pixels_per_category = kPixelsPerLayer;
  chart.table.header = {"layer"};
  // A trace per curve; its cells go to the rows of its layers.
  std::map<std::string, std::vector<std::string>> cells;
  std::vector<std::string> order;
  for (const LayerCurve& curve : curves) {
    std::vector<std::string> names;
    std::vector<double> values;
    for (const LayerNoise& layer : *curve.layers) {
      names.push_back(short_layer_name(layer.name));
      values.push_back(layer.*member);
    }
    if (std::none_of(values.begin(), values.end(), [](double v) { return std::isfinite(v); })) {
      continue;
    }
    add_once(curve.choice, chart.choices);
    const auto choice = std::find(chart.choices.begin(), chart.choices.end(), curve.choice);
    chart.traces.push_back(
        {{"type", "scatter"},
         {"mode", "lines+markers"},
         {"name", escape_html(runs[curve.run].label)},
         {"x", escaped_list(names)},
         {"y", to_json_array(values)},
         {"hovertemplate", "%{y:.3g}"},
         {"meta",
          {{"run", curve.run}, {"role", "points"}, {"choice", choice - chart.choices.begin()}}}});
    chart.table.header.push_back(runs[curve.run].label + ", " + curve.choice);
    for (size_t i = 0; i < names.size(); ++i) {
      auto& row = cells[names[i]];
      add_once(names[i], order);
      row.resize(chart.table.header.size() - 2, "–");
      row.push_back(format_number(values[i]));
    }
  }
  // The table, a row per layer.
  for (const std::string& name : order) {
    std::vector<std::string> row = {name};
    cells[name].resize(chart.table.header.size() - 1, "–");
    row.insert(row.end(), cells[name].begin(), cells[name].end());
    chart.table.rows.push_back(row);
  }
  chart.layout = {{"xaxis", {{"title", {{"text", "layer"}}}, {"type", "category"}}},
                  {"yaxis", {{"title", {{"text", unit}}}}},
                  {"hovermode", "x unified"}};
  return chart;
}

}  // namespace

std::vector<Chart> quantization_charts(const std::vector<RunData>& runs) {
  // Collect the curves over layers.
  std::vector<Chart> charts;
  std::vector<LayerCurve> layers, predicted;
  for (size_t r = 0; r < runs.size(); ++r) {
    std::vector<std::string> shown;  // the first seed of each method stands for all
    for (const QuantizedResult& result : runs[r].quantized) {
      const std::string choice = result.method + " at " + result.bits + " bits";
      if (add_once(choice, shown)) layers.push_back({r, choice, &result.layers});
    }
    for (const PredictedNoise& noise : runs[r].predicted) {
      predicted.push_back({r, plain_name(noise.what), &noise.layers});
    }
  }
  // Charts over bits, methods and layers; those without numbers are omitted.
  const Chart bits = bits_chart(runs);
  if (!bits.traces.empty()) charts.push_back(bits);
  const std::vector<MethodGroup> groups = method_groups(runs);
  if (!groups.empty()) charts.push_back(method_chart(runs, groups));
  const std::vector<Chart> by_layer = {
      layer_chart({.id = "layer-sqnr",
                   .title = "Signal to noise of each layer's weights",
                   .caption = "Signal to quantization noise of every quantized weight matrix, in "
                              "decibels; higher is better, 6 dB are one bit."},
                  "SQNR (dB)", runs, layers, &LayerNoise::sqnr_db),
      layer_chart(
          {.id = "layer-error",
           .title = "Error of each layer's output",
           .caption = "Size of the change of each layer's output over the calibration text, "
                      "relative to the output; lower is better."},
          "relative error", runs, layers, &LayerNoise::output_error),
      layer_chart(
          {.id = "predicted-sqnr",
           .title = "Predicted signal to noise at 4 bits",
           .caption = "Signal to noise of each tensor rounded to 4 bits by itself, in decibels, "
                      "without quantizing the model: weights by row, activations per token "
                      "(osp analyze); higher is better."},
          "SQNR (dB)", runs, predicted, &LayerNoise::sqnr_db)};
  for (const Chart& chart : by_layer) {
    if (!chart.traces.empty()) charts.push_back(chart);
  }
  return charts;
}

}  // namespace osp
