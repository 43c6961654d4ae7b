#include "osp/report/read_analysis.h"

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/base/provenance.h"
#include "osp/report/chart_parts.h"
#include "osp/report/html.h"
#include "osp/report/json_fields.h"
#include "osp/report/series.h"

namespace osp {
namespace {

// Limits that no model reaches: beyond them a damaged file would only take memory.
constexpr int64_t kMostLayers = 10'000, kMostHeads = 10'000;

ReportedHistogram read_histogram(const Json& item, const std::string& where) {
  ReportedHistogram histogram;
  histogram.point = string_or_empty(item, "point", where);
  histogram.layer = int_or(item, "layer", 0, where);
  histogram.low = number_or_nan(item, "low", where, Presence::required);
  histogram.high = number_or_nan(item, "high", where, Presence::required);
  histogram.mean = number_or_nan(item, "mean", where);
  histogram.std = number_or_nan(item, "std", where);
  histogram.counts = number_list(item, "counts", where);
  return histogram;
}

ReportedActivation read_largest(const Json& item, const std::string& where) {
  ReportedActivation largest;
  largest.value = number_or_nan(item, "value", where, Presence::required);
  largest.layer = int_or(item, "layer", -1, where);
  largest.position = int_or(item, "position", -1, where);
  largest.channel = int_or(item, "channel", -1, where);
  largest.token = string_or_empty(item, "token", where);
  largest.point = string_or_empty(item, "point", where);
  largest.before = string_or_empty(item, "before", where);
  largest.after = string_or_empty(item, "after", where);
  return largest;
}

// Stores a value at [layer][head].
void place_head(double value, size_t layer, size_t head, std::vector<std::vector<double>>& grid) {
  if (grid.size() <= layer) grid.resize(layer + 1);
  if (grid[layer].size() <= head) grid[layer].resize(head + 1, kNan);
  grid[layer][head] = value;
}

// Adds a head's logits to those of its block.
void add_logits(const Json& logits, int64_t layer, const std::string& where,
                LogitHistograms& block) {
  block.layer = layer;
  block.first = joined_histogram(
      block.first, read_histogram(object_member(logits, "first_histogram", where), where));
  block.others = joined_histogram(
      block.others, read_histogram(object_member(logits, "others_histogram", where), where));
}

ReportedSinks read_sinks(const Json& object, const std::string& where) {
  // Totals of the model.
  ReportedSinks sinks;
  const auto number = [&](const char* key) { return number_or_nan(object, key, where); };
  sinks.threshold = number("threshold");
  sinks.heads = number("heads");
  sinks.first_sink_heads = number("first_sink_heads");
  sinks.strongest_sink_heads = number("strongest_sink_heads");
  sinks.sink_logit = number("sink_logit");
  sinks.other_logit = number("other_logit");
  sinks.key_norm_ratio = number("key_norm_ratio");
  sinks.value_norm_ratio = number("value_norm_ratio");
  // Shares and logits of each head.
  for (const Json& item : objects_member(object, "per_head", where)) {
    const int64_t layer = json_int(item, "layer", where), head = json_int(item, "head", where);
    if (layer < 0 || layer >= kMostLayers || head < 0 || head >= kMostHeads) {
      fail(ErrorCode::damaged, "{}: \"per_head\" has layer {} and head {}, expected 0 and more",
           where, layer, head);
    }
    const auto l = static_cast<size_t>(layer), h = static_cast<size_t>(head);
    const auto share = [&](const char* key) {
      return number_or_nan(object_member(item, key, where), "share", where);
    };
    place_head(share("first"), l, h, sinks.first_share);
    place_head(share("strongest"), l, h, sinks.strongest_share);
    if (!has_value(item, "logits")) continue;
    if (sinks.logits.size() <= l) sinks.logits.resize(l + 1);
    add_logits(object_member(item, "logits", where), layer, where, sinks.logits[l]);
  }
  return sinks;
}

void add_noise(const std::string& what, LayerNoise layer, std::vector<PredictedNoise>& predicted) {
  auto found = std::find_if(predicted.begin(), predicted.end(),
                            [&](const PredictedNoise& noise) { return noise.what == what; });
  if (found == predicted.end()) {
    predicted.push_back({what, {}});
    found = predicted.end() - 1;
  }
  found->layers.push_back(std::move(layer));
}

// The predicted noise of each tap point and weight at 4 bits.
std::vector<PredictedNoise> read_predictions(const Json& file, const std::string& where) {
  std::vector<PredictedNoise> predicted;
  for (const Json& item : objects_or_none(file, "weights", where)) {
    if (!has_value(item, "sqnr_db")) continue;
    add_noise("weights", {json_string(item, "name", where), number_or_nan(item, "sqnr_db", where)},
              predicted);
  }
  for (const Json& item : objects_or_none(file, "points", where)) {
    if (!has_value(item, "sqnr_db")) continue;
    const std::string point = json_string(item, "point", where);
    const int64_t layer = json_int(item, "layer", where);
    const bool state = point == "residual" && layer >= 0;
    add_noise(point,
              {state ? layer_name(static_cast<size_t>(layer)) : fmt::format("block {}", layer + 1),
               number_or_nan(item, "sqnr_db", where)},
              predicted);
  }
  return predicted;
}

std::string basis_name(const Json& item, const std::string& where) {
  const std::string basis = json_string(item, "basis", where);
  if (basis == "own") return ReportedCost::Basis::kOwn;
  if (basis == "principal") return "principal axes";
  return fmt::format("{} axes mixed", int_or(item, "block", 0, where));
}

ReportedCost read_cost(const Json& object, const std::string& text, const std::string& where) {
  ReportedCost cost;
  cost.at = {.text = text, .file = where};
  // The tax.
  if (has_value(object, "outlier_tax")) {
    const Json& tax = object_member(object, "outlier_tax", where);
    const auto number = [&](const char* key) { return number_or_nan(tax, key, where); };
    cost.bits = string_or_empty(tax, "bits", where);
    cost.at.tokens = int_or(tax, "tokens", 0, where);
    cost.at.window = cost.at.stride = int_or(tax, "window", 0, where);
    cost.own = number("own");
    cost.rotated = number("rotated");
    cost.deviation = number("rotated_deviation");
    cost.tax = number("tax");
    cost.error = number("error");
    cost.share = number("share");
    cost.own_added_nats = number("own_added_nats");
    if (has_value(tax, "readers")) {
      cost.readers_share = number_or_nan(object_member(tax, "readers", where), "share", where);
    }
  }
  // Attribution and the other bases.
  if (has_value(object, "attribution")) {
    const Json& attribution = object_member(object, "attribution", where);
    cost.all_sites = number_or_nan(attribution, "all", where);
    cost.sites_at = cost.at;
    cost.sites_at.tokens = int_or(attribution, "tokens", 0, where);
    for (const Json& item : objects_or_none(attribution, "sites", where)) {
      cost.sites.push_back({json_string(item, "site", where), number_or_nan(item, "only", where),
                            number_or_nan(item, "without", where)});
    }
  }
  for (const Json& item : objects_or_none(object, "bases", where)) {
    cost.bases.push_back({basis_name(item, where), number_or_nan(item, "reader_kurtosis", where),
                          number_or_nan(item, "kl", where)});
  }
  return cost;
}

}  // namespace

Outliers read_outliers(const Json& object, const std::string& where) {
  Outliers outliers;
  const Json& kurtosis = object_member(object, "excess_kurtosis", where);
  outliers.kurtosis = number_or_nan(kurtosis, "mean", where, Presence::required);
  outliers.clipped_kurtosis = number_or_nan(kurtosis, "clipped_mean", where);
  outliers.kurtosis_per_layer = number_list(kurtosis, "per_layer", where);
  outliers.largest = read_largest(object_member(object, "largest_activation", where), where);
  return outliers;
}

ModelResults read_analysis(const Json& file, const std::string& where) {
  ModelResults model{.model = string_or_empty(file, "model", where),
                     .rounded_before = string_or_empty(file, "rounded_before", where)};
  model.analysis = read_outliers(file, where);
  model.analysis.at = {.text = string_or_empty(file, "data", where),
                       .tokens = int_or(file, "tokens", 0, where),
                       .file = where};
  model.has_analysis = true;
  for (const Json& item : objects_or_none(file, "histograms", where)) {
    model.histograms.push_back(read_histogram(item, where));
  }
  for (const Json& item : objects_or_none(file, "largest_activations", where)) {
    model.largest_activations.push_back(read_largest(item, where));
  }
  model.predicted = read_predictions(file, where);
  for (const char* key : {"verdict", "quantization_verdict"}) {
    if (has_value(file, key)) model.verdicts.push_back(json_string(file, key, where));
  }
  if (has_value(file, "attention_sinks")) {
    const Json& sinks = object_member(file, "attention_sinks", where);
    model.sinks = read_sinks(sinks, where);
    if (has_value(sinks, "verdict")) model.verdicts.push_back(json_string(sinks, "verdict", where));
  }
  if (has_value(file, "cost")) {
    const Json& cost = object_member(file, "cost", where);
    model.cost = read_cost(cost, string_or_empty(file, "data", where), where);
    if (has_value(cost, "verdict")) {
      for (const Json& sentence : array_member(cost, "verdict", where)) {
        if (sentence.is_string()) model.verdicts.push_back(sentence);
      }
    }
  }
  model.sources.push_back(source_of(
      file, {"data", "verdict", "quantization_verdict", "largest_attention_logit"},
      fmt::format("osp analyze {} --data {} --json > {}", source_word(file, "model", "MODEL"),
                  source_word(file, "data", "DATA"), shell_word(where))));
  return model;
}

ModelResults::Source source_of(const Json& file, const std::vector<std::string>& shown,
                               const std::string& command) {
  ModelResults::Source source{command, Json::object()};
  if (file.contains("command") && file["command"].is_string()) source.command = file["command"];
  for (const auto& [key, value] : file.items()) {
    const bool elsewhere = key == "command" || key == "model" ||
                           std::find(shown.begin(), shown.end(), key) != shown.end();
    const bool record = key == "versions" || key == "machine";
    if (!elsewhere && (record || !value.is_structured())) source.facts[key] = value;
  }
  return source;
}

std::string source_word(const Json& file, const char* key, const char* otherwise) {
  const bool known = file.contains(key) && file[key].is_string() && !file[key].empty();
  const std::string text = known ? file[key].get<std::string>() : "";
  return text.empty() ? otherwise : shell_word(text);
}

}  // namespace osp
