#include "osp/optim/optimizer.h"

#include <ATen/ops/zeros.h>

#include <cmath>

#include "osp/base/error.h"
#include "osp/optim/config.h"

namespace osp {

StatefulOptimizer::StatefulOptimizer(const OptimizerGroup& group, const std::vector<Bank*>& banks)
    : group_(group.name) {
  for (const Bank* bank : banks) {
    OSP_CHECK(bank->gradient.defined(), "bank {} has no gradient", bank->name);
  }
}

at::Tensor StatefulOptimizer::keep(const Bank& bank, const char* what, const at::Tensor& tensor) {
  state_.emplace_back(fmt::format("{}.{}.{}", group_, bank.name, what), tensor);
  return tensor;
}

at::Tensor StatefulOptimizer::keep_count(const char* what) {
  state_.emplace_back(fmt::format("{}.{}", group_, what), at::zeros({1}, at::kLong));
  return state_.back().second;
}

void StatefulOptimizer::set_squared_update(double squared) {
  last_update_norm_ = std::sqrt(squared);
}

bool is_linear_layer(ParameterKind kind) {
  return kind == ParameterKind::matrix || kind == ParameterKind::embedding_projection;
}

bool any_parameter(const ParameterSpec& /*spec*/) { return true; }

bool is_matrix(const ParameterSpec& spec) { return spec.shape.size() == 2; }

GroupSettings preconditioned_settings(const OptimConfig& config, ParameterKind kind) {
  const bool is_gain = kind == ParameterKind::gain;
  return {config.preconditioned_lr_scale, is_gain ? config.decay_gain : config.decay_preconditioned,
          config.clip_preconditioned};
}

int64_t precondition_period(const OptimConfig& config) { return config.precondition_every; }

double scale_one(int64_t /*rows*/, int64_t /*cols*/, const OptimizerGroup& /*group*/,
                 const OptimConfig& /*config*/) {
  return 1;
}

double elementwise_flops(int64_t rows, int64_t cols, const OptimizerGroup& /*group*/,
                         const OptimConfig& /*config*/) {
  return 100.0 * static_cast<double>(rows) * static_cast<double>(cols);
}

int64_t every_step(const OptimConfig& /*config*/) { return 1; }

int64_t unsplit(const ParameterSpec& /*spec*/, const OptimConfig& /*config*/,
                int64_t /*head_size*/) {
  return 0;
}

void accept_options(const OptimConfig& /*config*/) {}

}  // namespace osp
