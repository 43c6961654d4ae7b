#include "osp/report/race_charts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/json_fields.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

// By tokens, the values of the seeds; those that are not finite are left out.
using Lengths = std::map<int64_t, std::vector<double>>;

template <class Value>
Lengths by_length(const Race& race, const Value& value) {
  Lengths lengths;
  for (const RacePair& pair : race.pairs) {
    const double found = value(pair);
    if (std::isfinite(found)) lengths[pair.tokens].push_back(found);
  }
  return lengths;
}

// A mark per seed, and a line through their means that has no name of its own.
void add_traces(const std::string& name, const Lengths& lengths, size_t look, Json& traces) {
  std::vector<double> x, y, tokens, means;
  for (const auto& [length, values] : lengths) {
    x.insert(x.end(), values.size(), static_cast<double>(length));
    y.insert(y.end(), values.begin(), values.end());
    tokens.push_back(static_cast<double>(length));
    means.push_back(mean_of(values));
  }
  if (x.empty()) return;
  const Json group = escape_html(name);
  traces.push_back(marks_trace(name, to_json_array(x), y, "%{y:.4f}", look, 0));
  traces.back()["legendgroup"] = group;
  traces.back()["meta"].erase("choice");  // the chart has none
  traces.push_back({{"type", "scatter"},
                    {"mode", "lines"},
                    {"name", group},
                    {"legendgroup", group},
                    {"showlegend", false},
                    {"x", to_json_array(tokens)},
                    {"y", to_json_array(means)},
                    {"hoverinfo", "skip"},
                    {"meta", {{"run", look}}}});
}

Json layout_of(const Race& race, const std::string& across, const std::string& up) {
  Json values = Json::array(), texts = Json::array();
  for (const RacePair& pair : race.pairs) {
    if (!values.empty() && values.back() == pair.tokens) continue;
    values.push_back(pair.tokens);
    texts.push_back(fmt::format("{:.3g}M", static_cast<double>(pair.tokens) / 1e6));
  }
  return {
      {"xaxis",
       {{"type", "log"}, {"title", {{"text", across}}}, {"tickvals", values}, {"ticktext", texts}}},
      {"yaxis", {{"title", {{"text", up}}}, {"zeroline", true}}}};
}

// A row per pair: the value of each arm, or one of both.
std::vector<std::string> row_of(const RacePair& pair, std::vector<std::string> cells) {
  cells.insert(cells.begin(), {format_count(pair.tokens), std::to_string(pair.seed)});
  return cells;
}

Chart tax_chart(const Race& race, const std::array<size_t, 2>& looks) {
  Chart chart{.id = "tax-training",
              .title = "The outlier tax over the length of training",
              .caption =
                  "What a random rotation of the residual stream gives back at 4-4-4 behind "
                  "a Hadamard in front of the down projection. A mark is a seed of a run of "
                  "that length, the line their mean; nats per token, lower is better."};
  for (size_t arm = 0; arm < 2; ++arm) {
    add_traces(race.arms.at(arm),
               by_length(race, [&](const RacePair& pair) { return pair.runs.at(arm).tax; }),
               looks.at(arm), chart.traces);
  }
  chart.layout = layout_of(race, "tokens of training", "outlier tax, nats per token");
  chart.table.header = {"tokens", "seed", race.arms[0], race.arms[1]};
  for (const RacePair& pair : race.pairs) {
    chart.table.rows.push_back(
        row_of(pair, {format_fixed(pair.runs[0].tax, 4), format_fixed(pair.runs[1].tax, 4)}));
  }
  return chart;
}

Chart ratio_chart(const Race& race, size_t look) {
  Chart chart{
      .id = "ratio-training",
      .title = fmt::format("Damage of {} over damage of {}", race.arms[0], race.arms[1]),
      .caption = fmt::format("Loss added at 4-4-4, everything included: that of {} divided by that "
                             "of {} with the same seed and length. A mark is a seed, the line "
                             "their mean; above 1, dotted, {} loses more.",
                             race.arms[0], race.arms[1], race.arms[0])};
  const std::string name = fmt::format("{} / {}", race.arms[0], race.arms[1]);
  add_traces(name, by_length(race, [](const RacePair& pair) { return pair.ratio(); }), look,
             chart.traces);
  if (chart.traces.empty()) return chart;
  const Json ends = {race.pairs.front().tokens, race.pairs.back().tokens};
  chart.traces.push_back({{"type", "scatter"},
                          {"mode", "lines"},
                          {"name", "equal"},
                          {"showlegend", false},
                          {"x", ends},
                          {"y", {1, 1}},
                          {"hoverinfo", "skip"},
                          {"meta", {{"role", "reference"}}}});
  chart.layout = layout_of(race, "tokens of training", "ratio of added nats");
  chart.layout["yaxis"]["zeroline"] = false;
  chart.table.header = {"tokens", "seed", race.arms[0] + ", added nats",
                        race.arms[1] + ", added nats", "ratio"};
  for (const RacePair& pair : race.pairs) {
    chart.table.rows.push_back(
        row_of(pair, {format_fixed(pair.runs[0].added_nats, 4),
                      format_fixed(pair.runs[1].added_nats, 4), format_fixed(pair.ratio(), 2)}));
  }
  return chart;
}

// The models' look for an arm of their name, else the next one that is free.
std::array<size_t, 2> looks_of(const Race& race, const std::vector<RunData>& models) {
  std::array<size_t, 2> looks = {models.size(), models.size() + 1};
  for (size_t arm = 0; arm < 2; ++arm) {
    for (size_t m = 0; m < models.size(); ++m) {
      if (models[m].label == race.arms.at(arm)) looks.at(arm) = m;
    }
  }
  return looks;
}

}  // namespace

double RacePair::ratio() const { return runs[0].added_nats / runs[1].added_nats; }

Race read_race(const Json& file, const std::string& where) {
  Race race;
  const Json& arms = array_member(file, "arms", where);
  if (arms.size() != 2 || !arms[0].is_string() || !arms[1].is_string()) {
    fail(ErrorCode::damaged, "{}: arms must be the names of two arms", where);
  }
  race.arms = {arms[0].get<std::string>(), arms[1].get<std::string>()};
  for (const Json& item : objects_member(file, "pairs", where)) {
    RacePair pair{.tokens = json_int(item, "tokens", where), .seed = json_int(item, "seed", where)};
    const Json& runs = objects_member(item, "runs", where);
    if (pair.tokens <= 0) fail(ErrorCode::damaged, "{}: tokens of a pair must be above 0", where);
    if (runs.size() != 2) fail(ErrorCode::damaged, "{}: a pair must have two runs", where);
    for (size_t arm = 0; arm < 2; ++arm) {
      pair.runs.at(arm) = {.loss = number_or_nan(runs[arm], "loss", where),
                           .added_nats = number_or_nan(runs[arm], "added_nats", where),
                           .tax = number_or_nan(runs[arm], "tax", where)};
    }
    race.pairs.push_back(pair);
  }
  if (race.pairs.empty()) fail(ErrorCode::damaged, "{}: a race without pairs", where);
  std::sort(race.pairs.begin(), race.pairs.end(), [](const RacePair& a, const RacePair& b) {
    return std::tie(a.tokens, a.seed) < std::tie(b.tokens, b.seed);
  });
  return race;
}

std::string race_sentence(const Race& race) {
  const Lengths lengths = by_length(race, [](const RacePair& pair) { return pair.ratio(); });
  if (lengths.empty()) {
    return fmt::format("{} and {} over the length of training.", race.arms[0], race.arms[1]);
  }
  const auto& [tokens, ratios] = *lengths.rbegin();
  const auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  return fmt::format("After {} tokens of training {} loses {} times as much at 4 bits as {}.",
                     format_count(tokens), race.arms[0],
                     ratios.size() == 1 ? fmt::format("{:.2f}", *low)
                                        : fmt::format("{:.2f} to {:.2f}", *low, *high),
                     race.arms[1]);
}

std::vector<Chart> race_charts(const Race& race, const std::vector<RunData>& models) {
  std::vector<Chart> charts;
  const std::array<size_t, 2> looks = looks_of(race, models);
  for (const Chart& chart :
       {tax_chart(race, looks),
        ratio_chart(race, std::max({models.size(), looks[0] + 1, looks[1] + 1}))}) {
    if (!chart.traces.empty()) charts.push_back(chart);
  }
  return charts;
}

}  // namespace osp
