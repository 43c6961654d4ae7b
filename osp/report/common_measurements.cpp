#include "osp/report/common_measurements.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

#include "osp/base/error.h"
#include "osp/report/series.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

bool has_cost(const RunData& run) { return std::isfinite(run.cost.tax); }

bool has_average(const EvalResult& result) {
  return result.bits == kFourBits && std::isfinite(result.average);
}

// The one that occurs most often, the first of several.
Measurement most_frequent(const std::vector<Measurement>& all) {
  std::map<std::string, size_t> votes;
  for (const Measurement& at : all) ++votes[at.key()];
  Measurement best;
  size_t most = 0;
  for (const Measurement& at : all) {
    if (votes[at.key()] <= most) continue;
    most = votes[at.key()];
    best = at;
  }
  return best;
}

// "What: on X." if all models were measured on one thing, else "What: of A and B on X; of C on Y."
std::string note(const std::string& what, const std::vector<RunData>& runs,
                 const std::function<bool(const RunData&)>& has,
                 const std::function<std::string(const RunData&)>& phrase) {
  std::vector<std::pair<std::string, std::vector<std::string>>> groups;
  for (const RunData& run : runs) {
    if (!has(run)) continue;
    const std::string on = phrase(run);
    auto found = groups.begin();
    while (found != groups.end() && found->first != on) ++found;
    if (found == groups.end()) found = groups.insert(groups.end(), {on, {}});
    found->second.push_back(run.label);
  }
  if (groups.empty()) return "";
  if (groups.size() == 1) return fmt::format("{}: on {}.", what, groups.front().first);
  std::vector<std::string> parts;
  parts.reserve(groups.size());
  for (const auto& [on, labels] : groups) {
    parts.push_back(fmt::format("of {} on {}", fmt::join(labels, ", "), on));
  }
  return fmt::format("{}: {}.", what, fmt::join(parts, "; "));
}

}  // namespace

CommonMeasurements common_measurements(const std::vector<RunData>& runs) {
  std::vector<Measurement> costs, benchmarks;
  for (const RunData& run : runs) {
    if (has_cost(run) && run.cost.bits == kFourBits) costs.push_back(run.cost.at);
    for (const EvalResult& result : run.evaluation) {
      if (has_average(result)) benchmarks.push_back(result.at);
    }
  }
  return {.perplexity = common_measurement(perplexities_of(runs)),
          .cost = most_frequent(costs),
          .benchmarks = most_frequent(benchmarks)};
}

ReportedCost cost_on(const RunData& run, const Measurement& at) {
  const bool same = run.cost.bits == kFourBits && run.cost.at.key() == at.key();
  return same ? run.cost : ReportedCost{};
}

AverageScore average_on(const RunData& run, const Measurement& at) {
  AverageScore score{kNan, kNan};
  for (const EvalResult& result : run.evaluation) {
    if (has_average(result) && result.at.key() == at.key()) {
      score = {result.average, average_error(result)};
    }
  }
  return score;
}

double average_error(const EvalResult& result) {
  double squares = 0, weights = 0;
  for (const TaskResult& task : result.tasks) {
    const double weight = task.task.starts_with("arc_") ? 0.5 : 1;
    squares += std::pow(weight * task.standard_error, 2);
    weights += weight;
  }
  return std::sqrt(squares) / weights;
}

std::vector<std::string> measurement_notes(const std::vector<RunData>& runs) {
  const std::vector<std::string> all = {
      note(
          "Excess kurtosis and largest activation", runs,
          [](const RunData& run) { return std::isfinite(run.outliers().kurtosis); },
          [](const RunData& run) { return run.outliers().at.phrase(); }),
      note("Outlier tax, and what is measured with it", runs, has_cost, [](const RunData& run) {
        return fmt::format("{}, at {}", run.cost.at.phrase(), run.cost.bits);
      })};
  std::vector<std::string> notes;
  for (std::string one : all) {
    // Labels and names of texts come from files, and a note is one line of a terminal.
    std::replace_if(
        one.begin(), one.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
    if (!one.empty()) notes.push_back(one);
  }
  return notes;
}

}  // namespace osp
