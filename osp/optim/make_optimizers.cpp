#include "osp/optim/make_optimizers.h"

#include <set>

#include "osp/base/error.h"
#include "osp/optim/adamw.h"
#include "osp/optim/muon.h"

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

}  // namespace osp
