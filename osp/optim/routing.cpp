#include "osp/optim/routing.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/optim/optimizers.h"

namespace osp {
namespace {

struct NameRule {
  std::string pattern;
  const OptimizerRow* optimizer;
  int64_t used = 0;
};

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

const OptimizerRow* parse_optimizer(const std::string& word, const std::string& rule) {
  const OptimizerRow* row = find_optimizer(word);
  if (row == nullptr) {
    fail(ErrorCode::usage, "optim.routes: \"{}\" names the optimizer \"{}\"; write one of {}", rule,
         word, fmt::join(optimizer_names(), ", "));
  }
  return row;
}

std::vector<NameRule> parse_routes(const std::string& routes) {
  std::vector<NameRule> rules;
  size_t begin = 0;
  while (begin <= routes.size()) {
    const size_t end = std::min(routes.find(';', begin), routes.size());
    const std::string rule = trimmed(routes.substr(begin, end - begin));
    begin = end + 1;
    if (rule.empty()) continue;
    const size_t equals = rule.rfind('=');
    if (equals == std::string::npos || trimmed(rule.substr(0, equals)).empty()) {
      fail(ErrorCode::usage, "optim.routes: \"{}\" is not of the form pattern=optimizer", rule);
    }
    rules.push_back(
        {trimmed(rule.substr(0, equals)), parse_optimizer(trimmed(rule.substr(equals + 1)), rule)});
  }
  return rules;
}

// The optimizer that optim.name gives to parameters of this kind; not called for name = "routes".
const OptimizerRow& optimizer_of_kind(ParameterKind kind, const OptimConfig& config) {
  const auto [row, coverage] = recipe_optimizer(config.name);
  const OptimizerRow& of_vectors = coverage == Coverage::everything ? *row : optimizer_row("adam");
  if (kind == ParameterKind::gain) {
    const std::string& rule = config.gain.rule;
    if (rule == "frozen" || rule == "adam") return optimizer_row(rule);
    return rule == "reference" || row->with_gain_rule ? optimizer_row("gain") : of_vectors;
  }
  const bool is_table = kind == ParameterKind::embedding || kind == ParameterKind::head;
  if (is_linear_layer(kind) || (is_table && coverage == Coverage::matrices)) return *row;
  return of_vectors;
}

OptimizerGroup make_group(const ParameterSpec& spec, const OptimizerRow& row,
                          const OptimConfig& config, int64_t head_size) {
  const GroupSettings settings = row.settings(config, spec.kind);
  OptimizerGroup group{.name = row.name,
                       .optimizer = &row,
                       .lr_scale = settings.lr_scale,
                       .decays = settings.decays,
                       .clip = settings.clip,
                       .split_rows = row.split_rows(spec, config, head_size)};
  // Gains that decay otherwise than matrices, and matrices of heads, are groups of their own.
  if (settings.decays != row.settings(config, ParameterKind::matrix).decays) group.name += "-gain";
  if (group.split_rows > 0) group.name += "-heads";
  return group;
}

void check_trainable(const ParameterSpec& spec, const OptimizerRow& row, const std::string& rule) {
  if (row.trainable.includes(spec)) return;
  fail(ErrorCode::usage, "{} [{}] cannot be trained by {}, which needs {} (rule {}); use {}",
       spec.name, fmt::join(spec.shape, ", "), row.title, row.trainable.needs, rule,
       row.trainable.instead);
}

// Layer numbers (whole parts of the name) become *.
std::string pattern_of(const std::string& name) {
  std::string out;
  size_t begin = 0;
  while (begin <= name.size()) {
    const size_t end = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    const bool number = !part.empty() && std::all_of(part.begin(), part.end(),
                                                     [](char c) { return c >= '0' && c <= '9'; });
    out += (begin ? "." : "") + (number ? std::string("*") : part);
    begin = end + 1;
  }
  return out;
}

}  // namespace

bool glob_match(const std::string& pattern, const std::string& name) {
  size_t p = 0, n = 0;
  size_t star = std::string::npos, resume = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p, ++n;
    } else if (star != std::string::npos) {
      p = star + 1;
      n = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

Routing route_parameters(const std::vector<ParameterSpec>& specs, const OptimConfig& config,
                         int64_t head_size) {
  for (const OptimizerRow* row : optimizer_rows()) row->check_options(config);
  std::vector<NameRule> rules = parse_routes(config.routes);
  Routing routing;
  for (const ParameterSpec& spec : specs) {
    // Find the exception that names the parameter; more than one is an error.
    NameRule* found = nullptr;
    for (NameRule& rule : rules) {
      if (!glob_match(rule.pattern, spec.name)) continue;
      ++rule.used;
      if (found) {
        fail(ErrorCode::usage,
             "optim.routes: {} matches two rules, \"{}={}\" and \"{}={}\"; make their patterns "
             "disjoint",
             spec.name, found->pattern, found->optimizer->name, rule.pattern, rule.optimizer->name);
      }
      found = &rule;
    }
    if (!found && config.name == "routes") {
      fail(ErrorCode::usage,
           "optim.routes: {} matches none of \"{}\", and optim.name = \"routes\" has no rule for a "
           "{}; add one",
           spec.name, config.routes, kind_name(spec.kind));
    }
    // Without one, its kind decides.
    const OptimizerRow& row = found ? *found->optimizer : optimizer_of_kind(spec.kind, config);
    const std::string rule = found ? fmt::format("{}={}", found->pattern, row.name)
                                   : fmt::format("{}: {}", config.name, kind_name(spec.kind));
    check_trainable(spec, row, rule);
    const OptimizerGroup group = make_group(spec, row, config, head_size);
    // Join the group of that name, or begin it.
    const auto known = std::find_if(routing.groups.begin(), routing.groups.end(),
                                    [&](const OptimizerGroup& g) { return g.name == group.name; });
    routing.group_of.push_back(known - routing.groups.begin());
    routing.rule_of.push_back(rule);
    if (known == routing.groups.end()) routing.groups.push_back(group);
  }
  for (const NameRule& rule : rules) {
    if (rule.used == 0) {
      fail(ErrorCode::usage,
           "optim.routes: \"{}={}\" matches no parameter; `osp train --dry-run` lists the names",
           rule.pattern, rule.optimizer->name);
    }
  }
  return routing;
}

Json routing_json(const std::vector<ParameterSpec>& specs, const Routing& routing,
                  const OptimConfig& config) {
  Json rows = Json::array();
  for (size_t i = 0; i < specs.size(); ++i) {
    const OptimizerGroup& group = routing.groups[routing.group_of[i]];
    Json row;
    row["pattern"] = pattern_of(specs[i].name);
    row["shape"] = specs[i].shape;
    row["count"] = 1;
    row["group"] = group.name;
    row["optimizer"] = group.optimizer->name;
    row["lr"] = config.lr * group.lr_scale;
    row["weight_decay"] = group.decays ? config.weight_decay : 0.0;
    row["clip"] = group.clip;
    row["update_scale"] = update_scale(group, specs[i].shape, config);
    row["rule"] = routing.rule_of[i];
    const auto same = std::find_if(rows.begin(), rows.end(), [&](const Json& other) {
      return other["pattern"] == row["pattern"] && other["shape"] == row["shape"] &&
             other["group"] == row["group"];
    });
    if (same == rows.end()) {
      rows.push_back(row);
    } else {
      (*same)["count"] = (*same)["count"].get<int64_t>() + 1;
    }
  }
  return rows;
}

std::string routing_table(const std::vector<ParameterSpec>& specs, const Routing& routing,
                          const OptimConfig& config) {
  const Json rows = routing_json(specs, routing, config);
  std::string out =
      fmt::format("{:<46} {:>14} {:>5}  {:<10} {:>8} {:>7} {:>5} {:>7}\n", "parameter", "shape",
                  "count", "optimizer", "lr", "decay", "clip", "scale");
  for (const Json& row : rows) {
    const auto shape = fmt::format("{}", fmt::join(row["shape"].get<std::vector<int64_t>>(), "x"));
    out += fmt::format("{:<46} {:>14} {:>5}  {:<10} {:>8.3g} {:>7.3g} {:>5.3g} {:>7.3g}\n",
                       row["pattern"].get<std::string>(), shape, row["count"].get<int64_t>(),
                       row["group"].get<std::string>(), row["lr"].get<double>(),
                       row["weight_decay"].get<double>(), row["clip"].get<double>(),
                       row["update_scale"].get<double>());
  }
  return out;
}

}  // namespace osp
