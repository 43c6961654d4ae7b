#include "osp/optim/optimizers.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "osp/base/error.h"
#include "osp/optim/adafactor.h"
#include "osp/optim/adamw.h"
#include "osp/optim/frozen.h"
#include "osp/optim/gain_rule.h"
#include "osp/optim/kfac.h"
#include "osp/optim/muon.h"
#include "osp/optim/shampoo.h"
#include "osp/optim/soap.h"

namespace osp {
namespace {

// The table. A new optimizer needs its include above and its row here.
constexpr const OptimizerRow* kRows[] = {
    &kAdamRow,       //
    &kMuonRow,       //
    &kAdafactorRow,  //
    &kShampooRow,    //
    &kSoapRow,       //
    &kKfacRow,       //
    &kGainRow,       //
    &kFrozenRow,     //
};

// Rows and columns of a parameter in its bank: a vector or scalar is one row.
struct BankShape {
  int64_t rows, cols;
};

BankShape bank_shape(const std::vector<int64_t>& shape) {
  return {shape.size() == 2 ? shape[0] : 1, shape.empty() ? 1 : shape.back()};
}

template <class Predicate>
std::vector<std::string> names_where(const Predicate& holds) {
  std::vector<std::string> names;
  for (const OptimizerRow* row : kRows) {
    if (holds(*row)) names.push_back(row->name);
  }
  return names;
}

std::vector<std::string> names_with(Coverage coverage) {
  return names_where([&](const OptimizerRow& row) { return row.coverage == coverage; });
}

// "a, b or c".
std::string enumerated(std::vector<std::string> names, const char* conjunction) {
  const std::string last = names.back();
  names.pop_back();
  return fmt::format("{} {} {}", fmt::join(names, ", "), conjunction, last);
}

}  // namespace

std::span<const OptimizerRow* const> optimizer_rows() { return kRows; }

const OptimizerRow* find_optimizer(const std::string& name) {
  const auto found =
      std::ranges::find_if(kRows, [&](const OptimizerRow* row) { return name == row->name; });
  return found == std::end(kRows) ? nullptr : *found;
}

const OptimizerRow& optimizer_row(const std::string& name) {
  const OptimizerRow* row = find_optimizer(name);
  OSP_CHECK(row != nullptr, "no optimizer is named {}", name);
  return *row;
}

std::vector<std::string> optimizer_names() {
  return names_where([](const OptimizerRow&) { return true; });
}

std::vector<std::string> recipe_optimizer_names() {
  auto names = names_where([](const OptimizerRow& row) { return row.coverage != Coverage::none; });
  names.insert(names.begin(), "osp");
  return names;
}

RecipeOptimizer recipe_optimizer(const std::string& name) {
  if (name == "osp") return {&kMuonRow, Coverage::linear_layers};
  const OptimizerRow& row = optimizer_row(name);
  return {&row, row.coverage};
}

Choices optimizer_choices() {
  Choices choices{recipe_optimizer_names()};
  choices.values.push_back("routes");
  return choices;
}

std::string optimizer_choices_help() {
  return fmt::format(
      "osp: Muon on hidden matrices and EmbProj, Adam on the rest; {}: likewise; muon: Muon on "
      "every matrix; {}: that on everything; routes: only what `routes` says",
      fmt::join(names_with(Coverage::linear_layers), ", "),
      fmt::join(names_with(Coverage::everything), ", "));
}

std::string routes_help() {
  return fmt::format(
      "exceptions by name, \"pattern=optimizer; ...\" where * is any run of letters and the "
      "optimizer {}",
      enumerated(optimizer_names(), "or"));
}

std::string preconditioned_names() {
  return enumerated(
      names_where([](const OptimizerRow& row) { return row.settings == preconditioned_settings; }),
      "and");
}

std::string divisible_names() {
  return enumerated(names_where([](const OptimizerRow& row) {
                      return row.division != Division::none && row.coverage != Coverage::none;
                    }),
                    "or");
}

std::vector<std::unique_ptr<Optimizer>> make_optimizers(ParameterStore& store,
                                                        const Routing& routing,
                                                        const OptimConfig& config) {
  // Sort the banks by group.
  std::vector<std::vector<Bank*>> members(routing.groups.size());
  for (Bank& bank : store.banks) {
    for (const int64_t parameter : bank.members) {
      OSP_CHECK(routing.group_of[parameter] == bank.group, "{} lies in a bank of another group",
                store.specs[parameter].name);
    }
    members[bank.group].push_back(&bank);
  }
  // Make each group's optimizer; names of states must differ, for checkpoints store them together.
  std::vector<std::unique_ptr<Optimizer>> optimizers;
  std::set<std::string> names;
  for (size_t i = 0; i < routing.groups.size(); ++i) {
    const OptimizerGroup& group = routing.groups[i];
    optimizers.push_back(group.optimizer->make(members[i], group, config));
    for (const auto& [name, tensor] : optimizers.back()->state()) {
      OSP_CHECK(names.insert(name).second, "two optimizer states are named {}", name);
    }
  }
  return optimizers;
}

double optimizer_state_bytes(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                             const OptimConfig& config) {
  const auto [rows, cols] = bank_shape(shape);
  return group.optimizer->state_bytes(rows, cols, group, config);
}

double update_flops(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                    const OptimConfig& config) {
  const auto [rows, cols] = bank_shape(shape);
  return group.optimizer->update_flops(rows, cols, group, config);
}

double update_scale(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                    const OptimConfig& config) {
  const auto [rows, cols] = bank_shape(shape);
  return group.optimizer->update_scale(rows, cols, group, config);
}

}  // namespace osp
