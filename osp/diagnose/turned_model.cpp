#include "osp/diagnose/turned_model.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>

#include <numeric>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/model/fuse.h"
#include "osp/ops/hadamard_matrix.h"
#include "osp/ptq/rotation_family.h"

namespace osp {
namespace {

Rotation inverse(const Rotation& q) { return {.matrix = q.dense().t().contiguous()}; }

// The largest divisor of n that is the order of a known Hadamard matrix.
int64_t largest_block(int64_t n) {
  for (int64_t block = n; block > 1; --block) {
    if (n % block == 0 && hadamard_factors(block).blocks > 0) return block;
  }
  return 1;
}

}  // namespace

Rotation random_rotation(int64_t size, uint64_t seed, const std::string& name, bool keeps_mean) {
  if (keeps_mean) return random_mean_keeping(size, seed, name);
  if (hadamard_factors(size).blocks > 0) return random_hadamard(size, seed, name);
  at::Tensor gaussian = at::empty({size, size}, at::kFloat);
  RandomStream(seed, name)
      .fill_normal({gaussian.data_ptr<float>(), static_cast<size_t>(gaussian.numel())}, 0.0, 1.0);
  return dense_rotation(std::get<0>(at::linalg_qr(gaussian.to(at::kDouble))));
}

TurnedModel::TurnedModel(ParameterStore store)
    : store_(needs_fusing(store.config) ? fuse(store) : std::move(store)) {
  online_.query_key_hadamard = hadamard_factors(store_.config.head_size).blocks > 0;
}

int64_t TurnedModel::add_down_hadamard() {
  OSP_CHECK(!online_.down_hadamard, "the model has R4 already");
  // One size of block divides the inner sizes of all blocks; 0: all have this one.
  const std::vector<int64_t> inner = store_.config.inner_sizes();
  int64_t common = 0;
  for (const int64_t size : inner) common = std::gcd(common, size);
  const int64_t block = largest_block(common);
  const bool whole = inner.size() == 1 && block == inner.front();
  const RotationPlan plan{.down = true, .down_block = whole ? 0 : block};
  rotate_model(store_, plan);
  online_.down_hadamard = true;
  online_.down_block = plan.down_block;
  return plan.down_block;
}

std::string TurnedModel::why_no_rotation() const {
  const ModelConfig& config = store_.config;
  try {
    RotationPlan plan{.fold_norms = true};
    plan.residual = random_rotation(config.width, 0, "the width", config.layer_norm());
    check_rotations_exact(config, plan);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void TurnedModel::fold_norms() { rotate_model(store_, {.fold_norms = true}); }

void TurnedModel::turn(const Rotation& residual, const std::vector<Rotation>& values) {
  RotationPlan plan;
  plan.residual = residual;
  plan.values = values;
  rotate_model(store_, plan);
}

void TurnedModel::turn_back(const Rotation& residual, const std::vector<Rotation>& values) {
  std::vector<Rotation> back;
  for (const Rotation& q : values) back.push_back(inverse(q));
  turn(inverse(residual), back);
}

DivergenceResult TurnedModel::divergence(std::span<const int64_t> tokens, int64_t max_tokens,
                                         const BitWidths& bits, const SiteSelection& selected,
                                         std::vector<at::Tensor>* states) const {
  SiteQuantTap exact(store_, {}, online_), rounded(store_, bits, online_, selected);
  DivergenceOptions options;
  options.max_tokens = max_tokens;
  options.original_tap = &exact;
  options.changed_tap = &rounded;
  options.original_states = states;
  options.state_error = states == nullptr || states->empty();
  return measure_divergence(store_, store_, tokens, options);
}

}  // namespace osp
