#include "osp/report/claims.h"

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/report/common_measurements.h"
#include "osp/report/page_assets.h"
#include "osp/report/recipe_kind.h"
#include "osp/report/summary.h"

namespace osp {
namespace {

const Json& claims_file() {
  static const Json file = parse_json(claims_json(), "claims.json");
  return file;
}

// A rule of claims.json.
struct Rule {
  std::string kind, number, of, against;
  double limit = kNan, factor = kNan, floor = 0;
  bool same_rate = false, same_machine = false;
  // Compared models must be measured on one thing; a model by itself as well, for the same table.
  bool about_average() const { return number.starts_with("average"); }
  bool about_cost() const {
    return number == "damage with FFN Hadamard" || number.starts_with("outlier tax");
  }
  bool about_perplexity() const {
    return number.starts_with("perplexity") || number == "damage at 4-4-4";
  }
  // "" for numbers that are compared whatever they were measured on.
  std::string measured_on(const CommonMeasurements& at) const {
    return about_average()      ? at.benchmarks.phrase()
           : about_cost()       ? at.cost.phrase()
           : about_perplexity() ? at.perplexity.phrase()
                                : "";
  }
};

Rule read_rule(const Json& claim) {
  const auto number = [&](const char* key) {
    return claim.contains(key) ? claim[key].get<double>() : kNan;
  };
  Rule rule{.kind = claim["rule"],
            .number = claim["number"],
            .of = claim["of"],
            .against = claim.value("against", ""),
            .limit = number("limit"),
            .factor = number("factor"),
            .floor = claim.value("floor", 0.0),
            .same_rate = claim.value("same_rate", false),
            .same_machine = claim.value("same_machine", false)};
  return rule;
}

// A number of a model with its standard error; 0 for those that have none.
struct Found {
  double value;
  double error = 0;
};

// The number of a model that a rule is about, as measured on what the models have in common.
Found number_of(const RunData& run, const std::string& number, const CommonMeasurements& at) {
  const double full = perplexity_on(run, at.perplexity, kFullBits);
  const double four = perplexity_on(run, at.perplexity, kFourBits);
  if (number == "excess kurtosis") return {run.outliers().kurtosis};
  if (number == "damage at 4-4-4") return {four / full - 1};
  if (number == "damage with FFN Hadamard") {
    return {std::expm1(cost_on(run, at.cost).own_added_nats)};
  }
  if (number == "perplexity at 4-4-4") return {four};
  if (number == "perplexity at 16-16-16") return {full};
  if (number == "average of ten tasks at 4-4-4") {
    const AverageScore average = average_on(run, at.benchmarks);
    return {std::isfinite(average.error) ? average.value : kNan, average.error};
  }
  if (number == "outlier tax, share") return {cost_on(run, at.cost).share};
  if (number == "sink heads") return {run.sinks.strongest_sink_heads};
  OSP_CHECK(number == "tokens per second", "claims.json: no number is called {}", number);
  return {median_of(run.tokens_per_s.values)};
}

std::string number_text(const std::string& number, double value) {
  const bool share = number.find("damage") == 0 || number.find("share") != std::string::npos;
  if (share) return format_damage(1, 1 + value);
  if (number.find("average") == 0) return fmt::format("{:.1f} %", 100 * value);
  return number == "excess kurtosis" ? format_fixed(value, 2) : format_number(value);
}

std::string rule_text(const Rule& rule) {
  const std::string every = "every " + rule.of + " model";
  const auto value = [&](double v) { return number_text(rule.number, v); };
  if (rule.kind == "size below") {
    return fmt::format("{} of {} below {} in size", rule.number, every, value(rule.limit));
  }
  if (rule.kind == "at least") {
    return fmt::format("{} of {} at least {}", rule.number, every, value(rule.limit));
  }
  std::string against = "every " + rule.against + " model";
  if (rule.same_rate) against += " at the same peak learning rate";
  if (rule.same_machine) against += " trained on the same machine";
  if (rule.kind == "times") {
    return fmt::format("{} of {} at least {} times that of {} (sizes below {} count as {})",
                       rule.number, against, format_number(rule.factor), every, rule.floor,
                       rule.floor);
  }
  if (rule.kind == "share") {
    return fmt::format("{} of {} at least {} times that of {}", rule.number, every, rule.factor,
                       against);
  }
  return fmt::format("{} of {} {} than that of {}{}", rule.number, every, rule.kind, against,
                     rule.about_average() ? " by two standard errors, on the same items"
                     : rule.about_perplexity() || rule.about_cost() ? ", on the same text"
                                                                    : "");
}

bool holds(const Rule& rule, const Found& found, const Found& other) {
  const double of = found.value, against = other.value;
  const double margin = 2 * std::hypot(found.error, other.error);
  if (rule.kind == "size below") return std::abs(of) < rule.limit;
  if (rule.kind == "at least") return of >= rule.limit;
  if (rule.kind == "less") return of < against - margin;
  if (rule.kind == "more") return of > against + margin;
  if (rule.kind == "share") return of >= rule.factor * against;
  OSP_CHECK(rule.kind == "times", "claims.json: no rule is called {}", rule.kind);
  return against >= rule.factor * std::max(std::abs(of), rule.floor);
}

// The models of a recipe that have the number, and those that lack it.
struct Side {
  std::string name;
  std::vector<const RunData*> runs = {};
  std::vector<Found> values = {};
  size_t without = 0;
};

Side side_of(const std::vector<RunData>& runs, const std::string& name, const std::string& number,
             const CommonMeasurements& at) {
  Side side{.name = name};
  const Json& wanted = claims_file()["models"][name];
  for (const RunData& run : runs) {
    const RecipeKind kind = recipe_kind(run.recipe);
    if (kind.optimizer != wanted["optimizer"] || kind.norm != wanted["norm"] ||
        kind.projection != wanted["projection"].get<bool>() || !kind.training_bits.empty()) {
      continue;
    }
    const Found value = number_of(run, number, at);
    if (!std::isfinite(value.value)) {
      ++side.without;
      continue;
    }
    side.runs.push_back(&run);
    side.values.push_back(value);
  }
  return side;
}

// "Adam 3.56 to 4.25 (3 models)", or what is missing.
std::string side_text(const Side& side, const std::string& number, bool on_one) {
  const std::string missing =
      side.without == 0
          ? ""
          : fmt::format(", {} model{} without it", side.without, side.without == 1 ? "" : "s");
  if (side.values.empty()) {
    return side.without == 0 ? "no " + side.name + " model here"
                             : side.name + ": not measured" + (on_one ? " on the same" : "");
  }
  const auto [low, high] =
      std::minmax_element(side.values.begin(), side.values.end(),
                          [](const Found& a, const Found& b) { return a.value < b.value; });
  if (side.values.size() == 1) {
    const std::string error =
        low->error > 0 ? " ± " + number_text(number, low->error) : std::string();
    return side.name + " " + number_text(number, low->value) + error + missing;
  }
  return fmt::format("{} {} to {} ({} models){}", side.name, number_text(number, low->value),
                     number_text(number, high->value), side.values.size(), missing);
}

// The models of "against" that may be compared with this one.
bool comparable(const Rule& rule, const RunData& of, const RunData& against) {
  if (rule.same_rate && !same_rate(of, against)) return false;
  if (!rule.same_machine) return true;
  const std::string machine = of.start.value("machine", "");
  return !machine.empty() && machine == against.start.value("machine", "");
}

Claim judge(const Json& json, const std::vector<RunData>& runs, const CommonMeasurements& at) {
  const Rule rule = read_rule(json);
  Claim claim{.says = json["says"], .reference = json["reference"], .judged = rule_text(rule)};
  const Side of = side_of(runs, rule.of, rule.number, at);
  const std::string on = rule.measured_on(at);
  claim.found = side_text(of, rule.number, !on.empty());
  size_t checked = 0, held = 0;
  const auto check = [&](const Found& value, const Found& other) {
    ++checked;
    held += holds(rule, value, other) ? 1 : 0;
  };
  // Hold the models of one side to the limit, or against those of the other.
  if (rule.against.empty()) {
    for (const Found& value : of.values) check(value, {kNan});
  } else {
    const Side against = side_of(runs, rule.against, rule.number, at);
    claim.found += "; " + side_text(against, rule.number, !on.empty());
    for (size_t i = 0; i < of.runs.size(); ++i) {
      for (size_t j = 0; j < against.runs.size(); ++j) {
        if (comparable(rule, *of.runs[i], *against.runs[j])) check(of.values[i], against.values[j]);
      }
    }
    if (checked == 0 && !of.runs.empty() && !against.runs.empty()) {
      claim.found += rule.same_rate ? "; none at the same rate" : "; none on the same machine";
    }
  }
  if (!on.empty()) claim.found += " (" + on + ")";
  if (checked == 0) return claim;
  claim.state = held == checked ? ClaimState::shown : ClaimState::not_shown;
  return claim;
}

}  // namespace

std::vector<Claim> judge_claims(const std::vector<RunData>& runs) {
  const CommonMeasurements at = common_measurements(runs);
  std::vector<Claim> claims;
  for (const Json& json : claims_file()["claims"]) claims.push_back(judge(json, runs, at));
  return claims;
}

std::string published_section(const std::vector<RunData>& runs) {
  HtmlTable table{{"recipe", "kurtosis, published", "kurtosis, here", "average at 4-4-4, published",
                   "average at 4-4-4, here", "PPL 16-16-16, published", "PPL 16-16-16, here",
                   "PPL 4-4-4, published", "PPL 4-4-4, here", "damage, published", "damage, here",
                   "damage with FFN Hadamard, published", "damage with FFN Hadamard, here"},
                  {}};
  const CommonMeasurements at = common_measurements(runs);
  bool any = false;
  for (const Json& row : claims_file()["published"]) {
    const std::string model = row["model"];
    const auto here = [&](const std::string& number) {
      const Side side = side_of(runs, model, number, at);
      any = any || !side.runs.empty();
      if (side.values.empty()) return std::string("–");
      double mean = 0;
      for (const Found& found : side.values)
        mean += found.value / static_cast<double>(side.values.size());
      return number_text(number, mean);
    };
    const double full = row["full"], four = row["four"], hadamard = row["hadamard"];
    table.rows.push_back(
        {model, format_number(row["excess kurtosis"]), here("excess kurtosis"),
         fmt::format("{:.1f} %", row["average"].get<double>()),
         here("average of ten tasks at 4-4-4"), format_number(full), here("perplexity at 16-16-16"),
         format_number(four), here("perplexity at 4-4-4"), format_damage(full, four),
         here("damage at 4-4-4"), format_damage(full, hadamard), here("damage with FFN Hadamard")});
  }
  if (!any) return "";
  return fmt::format(
      "<h3>The paper's numbers beside ours</h3>\n<p class=\"soft\">Published: from the paper, not "
      "measured by this program ({}). Here: means over this page's models of that recipe, of "
      "another "
      "size and on another text (perplexity and damage: {}; with the FFN Hadamard: {}; averages: "
      "{}): directions can be compared, sizes cannot.</p>\n{}",
      escape_html(claims_file()["published_on"].get<std::string>()),
      escape_html(at.perplexity.phrase()), escape_html(at.cost.phrase()),
      escape_html(at.benchmarks.phrase()), render_table(table, "The paper's numbers beside ours"));
}

std::string claims_source() { return claims_file()["source"]; }

}  // namespace osp
