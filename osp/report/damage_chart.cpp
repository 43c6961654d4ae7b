#include "osp/report/damage_chart.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>

#include "osp/base/error.h"
#include "osp/report/chart_parts.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

constexpr double kPixelsPerWay = 90;

// One model quantized in one way, measured as the model at 16 bits was.
struct Damage {
  size_t run;
  Measurement at;
  std::string way;
  // One per seed of the training or of the rotation: each against its own model at 16 bits.
  std::vector<double> full, quantized;
  double percent() const {
    std::vector<double> damages;
    for (size_t i = 0; i < full.size(); ++i) damages.push_back(100 * (quantized[i] / full[i] - 1));
    return mean_of(damages);
  }
};

// The perplexities at 16 bits of a model that stands for several seeds.
std::vector<double> seeds_at_full_bits(const RunData& run, const Measurement& at) {
  for (const EvalResult& result : run.evaluation) {
    if (result.bits == kFullBits && result.at.key() == at.key()) return result.of_seeds;
  }
  return {};
}

// A model's damages, by the measurement and the way.
std::vector<Damage> damages_of(const RunData& run, size_t index) {
  std::vector<Damage> all;
  for (const EvalResult& result : run.evaluation) {
    const double full = perplexity_on(run, result.at, kFullBits);
    if (result.bits == kFullBits || !std::isfinite(full) || !std::isfinite(result.perplexity)) {
      continue;
    }
    const std::vector<double> of_seeds = seeds_at_full_bits(run, result.at);
    Damage damage{index, result.at, "nearest, " + result.bits, {full}, {result.perplexity}};
    if (result.of_seeds.size() > 1 && of_seeds.size() == result.of_seeds.size()) {
      damage.full = of_seeds;
      damage.quantized = result.of_seeds;
    }
    all.push_back(std::move(damage));
  }
  for (const QuantizedResult& result : run.quantized) {
    if (!std::isfinite(result.perplexity) || !std::isfinite(result.perplexity_16)) continue;
    const std::string way = result.method + ", " + result.bits;
    const auto same = std::find_if(all.begin(), all.end(), [&](const Damage& known) {
      return known.way == way && known.at.key() == result.at.key();
    });
    if (same != all.end()) {
      same->full.push_back(result.perplexity_16);
      same->quantized.push_back(result.perplexity);
    } else {
      all.push_back({index, result.at, way, {result.perplexity_16}, {result.perplexity}});
    }
  }
  return all;
}

Json damage_trace(const std::string& name, size_t run, size_t choice,
                  const std::vector<const Damage*>& damages) {
  std::vector<std::string> ways;
  std::vector<double> values;
  for (const Damage* damage : damages) {
    ways.push_back(damage->way);
    values.push_back(damage->percent());
  }
  return marks_trace(name, escaped_list(ways), values, "%{y:.3g} %", run, choice);
}

}  // namespace

std::vector<Chart> damage_charts(const std::vector<RunData>& runs) {
  Chart chart{
      .id = "damage",
      .title = "Damage by quantization",
      .caption =
          "How much each way of quantizing adds to the perplexity of the model at 16 bits, "
          "in percent, both measured on the same text in the same windows; lower is better. "
          "One text at a time.",
      .table = {{"", "measured on", "quantized", "PPL 16 bits", "PPL quantized", "damage"}, {}},
      .wide = true};
  chart.pixels_per_category = kPixelsPerWay;
  // A trace per model and measurement, a choice per measurement.
  std::vector<std::string> keys;
  Extent extent;
  for (size_t r = 0; r < runs.size(); ++r) {
    const std::vector<Damage> damages = damages_of(runs[r], r);
    std::map<size_t, std::vector<const Damage*>> by_choice;
    for (const Damage& damage : damages) {
      if (add_once(damage.at.key(), keys)) chart.choices.push_back("on " + damage.at.phrase());
      const auto at = std::find(keys.begin(), keys.end(), damage.at.key()) - keys.begin();
      by_choice[static_cast<size_t>(at)].push_back(&damage);
      extent.include(damage.percent());
      chart.table.rows.push_back(
          {runs[r].label, damage.at.phrase(), damage.way, format_number(mean_of(damage.full)),
           format_number(mean_of(damage.quantized)), format_damage(1, 1 + damage.percent() / 100)});
    }
    for (const auto& [choice, list] : by_choice) {
      chart.traces.push_back(damage_trace(runs[r].label, r, choice, list));
    }
  }
  if (chart.traces.empty()) return {};
  chart.layout = {{"xaxis", {{"title", {{"text", "method and bits"}}}, {"type", "category"}}},
                  {"yaxis", {{"title", {{"text", "damage (%)"}}}}},
                  {"hovermode", "x unified"}};
  if (extent.low > 0 && extent.high > 20 * extent.low) {
    chart.layout["yaxis"].update(log_ticks(extent.low, extent.high));
  } else {
    chart.layout["yaxis"]["rangemode"] = "tozero";
  }
  return {chart};
}

}  // namespace osp
