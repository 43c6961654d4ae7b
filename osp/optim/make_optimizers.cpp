#include "osp/optim/make_optimizers.h"

#include <set>

#include "osp/base/error.h"
#include "osp/optim/adafactor.h"
#include "osp/optim/adamw.h"
#include "osp/optim/kfac.h"
#include "osp/optim/muon.h"
#include "osp/optim/shampoo.h"
#include "osp/optim/soap.h"

namespace osp {
namespace {

class Frozen : public Optimizer {
 public:
  void step(const StepValues&) override {}
  std::vector<std::pair<std::string, at::Tensor>> state() const override { return {}; }
  double last_update_norm() const override { return 0; }
};

}  // namespace

std::vector<std::unique_ptr<Optimizer>> make_optimizers(ParameterStore& store,
                                                        const Routing& routing,
                                                        const OptimConfig& config) {
  std::vector<std::vector<Bank*>> members(routing.groups.size());
  for (Bank& bank : store.banks) {
    for (const int64_t parameter : bank.members) {
      OSP_CHECK(routing.group_of[parameter] == bank.group, "{} lies in a bank of another group",
                store.specs[parameter].name);
    }
    members[bank.group].push_back(&bank);
  }
  std::vector<std::unique_ptr<Optimizer>> optimizers;
  std::set<std::string> names;
  for (size_t i = 0; i < routing.groups.size(); ++i) {
    const OptimizerGroup& group = routing.groups[i];
    switch (group.kind) {
      case OptimizerKind::adam:
        optimizers.push_back(make_adamw(members[i], group, config));
        break;
      case OptimizerKind::muon:
        optimizers.push_back(make_muon(members[i], group, config));
        break;
      case OptimizerKind::adafactor:
        optimizers.push_back(make_adafactor(members[i], group, config));
        break;
      case OptimizerKind::shampoo:
        optimizers.push_back(make_shampoo(members[i], group, config));
        break;
      case OptimizerKind::soap:
        optimizers.push_back(make_soap(members[i], group, config));
        break;
      case OptimizerKind::kfac:
        optimizers.push_back(make_kfac(members[i], group, config));
        break;
      case OptimizerKind::gain:
        optimizers.push_back(make_gain_rule(members[i], group, config));
        break;
      case OptimizerKind::frozen:
        optimizers.push_back(std::make_unique<Frozen>());
        break;
    }
    for (const auto& [name, tensor] : optimizers.back()->state()) {
      OSP_CHECK(names.insert(name).second, "two optimizer states are named {}", name);
    }
  }
  return optimizers;
}

double optimizer_state_bytes(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                             const OptimConfig& config) {
  // As it lies in its bank: a vector or scalar is one row.
  const int64_t rows = shape.size() == 2 ? shape[0] : 1;
  const int64_t cols = shape.empty() ? 1 : shape.back();
  const double scalars = double(rows) * double(cols);
  switch (group.kind) {
    case OptimizerKind::adam:
      return 8 * scalars;
    case OptimizerKind::muon:
      return muon_state_bytes(rows, cols, group, config);
    case OptimizerKind::gain:
      return 4 * scalars;
    case OptimizerKind::adafactor:
      return adafactor_state_bytes(rows, cols, config);
    case OptimizerKind::shampoo:
      return shampoo_state_bytes(rows, cols, config);
    case OptimizerKind::soap:
      return soap_state_bytes(rows, cols, config);
    case OptimizerKind::kfac:
      return kfac_state_bytes(rows, cols);
    case OptimizerKind::frozen:
      return 0;
  }
  return 0;
}

}  // namespace osp
