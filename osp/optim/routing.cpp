#include "osp/optim/routing.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/optim/muon.h"

namespace osp {
namespace {

struct NameRule {
  std::string pattern;
  OptimizerKind kind;
  int64_t used = 0;
};

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t\n");
  if (first == std::string::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

constexpr OptimizerKind kOptimizerKinds[] = {
    OptimizerKind::adam, OptimizerKind::muon, OptimizerKind::adafactor, OptimizerKind::shampoo,
    OptimizerKind::soap, OptimizerKind::kfac, OptimizerKind::gain,      OptimizerKind::frozen};

OptimizerKind parse_kind(const std::string& word, const std::string& rule) {
  std::vector<std::string> names;
  for (const OptimizerKind kind : kOptimizerKinds) {
    if (word == to_string(kind)) return kind;
    names.push_back(to_string(kind));
  }
  fail(ErrorCode::usage, "optim.routes: \"{}\" names the optimizer \"{}\"; write one of {}", rule,
       word, fmt::join(names, ", "));
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
        {trimmed(rule.substr(0, equals)), parse_kind(trimmed(rule.substr(equals + 1)), rule)});
  }
  return rules;
}

// Matrices of the blocks and of EmbProj: an input is multiplied by them in every forward pass.
bool is_linear_layer(ParameterKind kind) {
  return kind == ParameterKind::matrix || kind == ParameterKind::embedding_projection;
}

// The rule that optim.name has for this kind; not called for name = "routes".
OptimizerKind by_kind(ParameterKind kind, const OptimConfig& config) {
  const bool uses_muon = config.name == "osp" || config.name == "muon";
  const OptimizerKind of_vectors =
      config.name == "adafactor" ? OptimizerKind::adafactor : OptimizerKind::adam;
  if (kind == ParameterKind::gain) {
    if (config.gain_rule == "frozen") return OptimizerKind::frozen;
    if (config.gain_rule == "adam") return OptimizerKind::adam;
    const bool by_reference = config.gain_rule == "reference" || uses_muon;
    return by_reference ? OptimizerKind::gain : of_vectors;
  }
  const bool hidden = is_linear_layer(kind);
  const bool table = kind == ParameterKind::embedding || kind == ParameterKind::head;
  if (uses_muon && (hidden || (table && config.name == "muon"))) return OptimizerKind::muon;
  if (config.name == "shampoo" && hidden) return OptimizerKind::shampoo;
  if (config.name == "soap" && hidden) return OptimizerKind::soap;
  if (config.name == "kfac" && hidden) return OptimizerKind::kfac;
  return of_vectors;
}

// Whether the rows of the role's weight are those of attention heads, which Muon may take apart.
bool has_rows_of_heads(ParameterRole role) {
  switch (role) {
    case ParameterRole::query:
    case ParameterRole::key:
    case ParameterRole::value:
      return true;
    case ParameterRole::embedding:
    case ParameterRole::position_embedding:
    case ParameterRole::embedding_projection:
    case ParameterRole::embedding_norm:
    case ParameterRole::input_norm:
    case ParameterRole::query_norm:
    case ParameterRole::key_norm:
    case ParameterRole::attention_output:  // its columns are
    case ParameterRole::attention_branch_scale:
    case ParameterRole::post_attention_norm:
    case ParameterRole::gate:
    case ParameterRole::up:
    case ParameterRole::down:
    case ParameterRole::mlp_branch_scale:
    case ParameterRole::post_feedforward_norm:
    case ParameterRole::final_norm:
    case ParameterRole::head_projection:
    case ParameterRole::head:
      return false;
  }
  OSP_CHECK(false, "unknown parameter role {}", static_cast<int>(role));
}

OptimizerGroup make_group(const ParameterSpec& spec, OptimizerKind kind, const OptimConfig& config,
                          int64_t head_size) {
  OptimizerGroup group;
  group.name = to_string(kind);
  group.kind = kind;
  const bool is_gain = spec.kind == ParameterKind::gain;
  switch (kind) {
    case OptimizerKind::adam:
      group.lr_scale = config.adam_lr_scale;
      group.decays = is_gain ? config.decay_gain : config.decay_adam;
      group.clip = config.clip_adam;
      if (group.decays != config.decay_adam) group.name = "adam-gain";
      break;
    case OptimizerKind::muon:
      group.lr_scale = config.muon_lr_scale;
      group.decays = config.decay_muon;
      group.clip = config.clip_muon;
      if (config.per_head && has_rows_of_heads(spec.role)) {
        group.name = "muon-heads";
        group.split_rows = head_size;
      }
      break;
    case OptimizerKind::adafactor:
    case OptimizerKind::shampoo:
    case OptimizerKind::soap:
    case OptimizerKind::kfac:
      group.lr_scale = config.preconditioned_lr_scale;
      group.decays = is_gain ? config.decay_gain : config.decay_preconditioned;
      group.clip = config.clip_preconditioned;
      if (group.decays != config.decay_preconditioned) group.name += "-gain";
      break;
    case OptimizerKind::gain:
      group.lr_scale = config.gain_lr_scale;
      group.decays = config.decay_gain;
      group.clip = config.clip_gain;
      break;
    case OptimizerKind::frozen:
      group.lr_scale = 0;
      group.decays = false;
      break;
  }
  return group;
}

void check_shape(const ParameterSpec& spec, const OptimizerGroup& group, const std::string& rule) {
  const auto shape = fmt::format("[{}]", fmt::join(spec.shape, ", "));
  const bool needs_matrix = group.kind == OptimizerKind::muon ||
                            group.kind == OptimizerKind::shampoo ||
                            group.kind == OptimizerKind::soap;
  if (needs_matrix && spec.shape.size() != 2) {
    fail(ErrorCode::usage,
         "{} {} cannot be trained by {}, which needs a matrix (rule {}); use adam, adafactor, gain "
         "or frozen",
         spec.name, shape, to_string(group.kind), rule);
  }
  if (group.kind == OptimizerKind::kfac && !is_linear_layer(spec.kind)) {
    fail(ErrorCode::usage,
         "{} {} cannot be trained by kfac, which needs a linear layer (rule {}); use adam or "
         "adafactor",
         spec.name, shape, rule);
  }
  if (group.kind == OptimizerKind::gain && spec.shape.size() > 1) {
    fail(ErrorCode::usage,
         "{} {} cannot be trained by the gain rule, which needs a vector or scalar (rule {}); use "
         "adam, adafactor, muon or frozen",
         spec.name, shape, rule);
  }
  if (group.name == "muon-heads") {
    OSP_CHECK(group.split_rows > 0 && spec.shape[0] % group.split_rows == 0,
              "{} {} does not divide into heads of {}", spec.name, shape, group.split_rows);
  }
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

const char* to_string(OptimizerKind kind) {
  switch (kind) {
    case OptimizerKind::adam:
      return "adam";
    case OptimizerKind::muon:
      return "muon";
    case OptimizerKind::adafactor:
      return "adafactor";
    case OptimizerKind::shampoo:
      return "shampoo";
    case OptimizerKind::soap:
      return "soap";
    case OptimizerKind::kfac:
      return "kfac";
    case OptimizerKind::gain:
      return "gain";
    case OptimizerKind::frozen:
      return "frozen";
  }
  return "";
}

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
  if (config.momentum_bits != 32 && config.momentum_bits != 8) {
    fail(ErrorCode::usage, "optim.momentum_bits = {}: Muon keeps momentum in 32 bits or in 8",
         config.momentum_bits);
  }
  std::vector<NameRule> rules = parse_routes(config.routes);
  Routing routing;
  for (const ParameterSpec& spec : specs) {
    NameRule* found = nullptr;
    for (NameRule& rule : rules) {
      if (!glob_match(rule.pattern, spec.name)) continue;
      ++rule.used;
      if (found) {
        fail(ErrorCode::usage,
             "optim.routes: {} matches two rules, \"{}={}\" and \"{}={}\"; make their patterns "
             "disjoint",
             spec.name, found->pattern, to_string(found->kind), rule.pattern, to_string(rule.kind));
      }
      found = &rule;
    }
    if (!found && config.name == "routes") {
      fail(ErrorCode::usage,
           "optim.routes: {} matches none of \"{}\", and optim.name = \"routes\" has no rule for a "
           "{}; add one",
           spec.name, config.routes, kind_name(spec.kind));
    }
    const OptimizerKind kind = found ? found->kind : by_kind(spec.kind, config);
    const std::string rule = found ? fmt::format("{}={}", found->pattern, to_string(kind))
                                   : fmt::format("{}: {}", config.name, kind_name(spec.kind));
    const OptimizerGroup group = make_group(spec, kind, config, head_size);
    check_shape(spec, group, rule);
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
           rule.pattern, to_string(rule.kind));
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
    row["optimizer"] = to_string(group.kind);
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
