#include "osp/optim/frozen.h"

namespace osp {
namespace {

class Frozen : public Optimizer {
 public:
  void step(const StepValues&) override {}
  std::vector<std::pair<std::string, at::Tensor>> state() const override { return {}; }
  double last_update_norm() const override { return 0; }
};

std::unique_ptr<Optimizer> make_frozen(std::vector<Bank*> /*banks*/,
                                       const OptimizerGroup& /*group*/,
                                       const OptimConfig& /*config*/) {
  return std::make_unique<Frozen>();
}

double zero_bytes(int64_t, int64_t, const OptimizerGroup&, const OptimConfig&) { return 0; }

double zero_scale(int64_t, int64_t, const OptimizerGroup&, const OptimConfig&) { return 0; }

GroupSettings frozen_settings(const OptimConfig&, ParameterKind) {
  return {.lr_scale = 0, .decays = false, .clip = 0};
}

}  // namespace

constinit const OptimizerRow kFrozenRow{
    .name = "frozen",
    .make = make_frozen,
    .state_bytes = zero_bytes,
    .update_scale = zero_scale,
    .settings = frozen_settings,
    .division = Division::banks,
};

}  // namespace osp
