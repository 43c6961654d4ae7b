#include "osp/ptq/rotation.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <c10/core/GradMode.h>

#include <optional>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/ops/hadamard.h"
#include "osp/ptq/rotation_family.h"
#include "osp/ptq/rotation_store.h"

namespace osp {
namespace {

// Rows x [.., n] in another basis.
at::Tensor change_basis(const at::Tensor& x, Basis basis, int64_t layer, const RotationPlan& plan) {
  if (basis == Basis::residual && plan.residual) return plan.residual->apply(x);
  if (basis == Basis::heads && !plan.values.empty()) {
    const Rotation& q = plan.values.at(static_cast<size_t>(layer));
    return q.apply(x.reshape({-1, q.size()})).view(x.sizes());
  }
  if (basis == Basis::inner && plan.down) return hadamard_transform(x, {.block = plan.down_block});
  return x;
}

at::Tensor random_signs(int64_t size, uint64_t seed, const std::string& name) {
  const RandomStream random(seed, name);
  at::Tensor signs = at::empty({size}, at::kDouble);
  double* out = signs.mutable_data_ptr<double>();
  for (int64_t i = 0; i < size; ++i) {
    out[i] = random.bits32(static_cast<uint64_t>(i)) % 2 == 0 ? 1.0 : -1.0;
  }
  return signs;
}

bool norms_are_folded(const ParameterStore& store) {
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (!is_residual_norm(store.specs[i])) continue;
    if (!store.master(static_cast<int64_t>(i)).eq(1.0).all().item<bool>()) return false;
  }
  return true;
}

// The weights g of the norm in front of a linear layer in fp64; undefined if it has none.
at::Tensor norm_weights(const ParameterStore& store, std::optional<ParameterRole> norm,
                        int64_t layer) {
  const int64_t i = norm ? store.find(*norm, layer) : -1;
  return i < 0 ? at::Tensor() : store.master(i).to(at::kDouble);
}

// A matrix or table [rows, columns] as planned, in fp64.
at::Tensor rotated_matrix(const ParameterStore& store, int64_t parameter,
                          const RotationPlan& plan) {
  const ParameterSpec& spec = store.specs[static_cast<size_t>(parameter)];
  const Sides sides = sides_of(store.config, spec.role);
  at::Tensor w = store.master(parameter).to(at::kDouble);
  const at::Tensor gain = norm_weights(store, sides.norm, spec.layer);
  if (plan.fold_norms && gain.defined()) w = w * gain;
  w = change_basis(w, sides.input, spec.layer, plan);
  return sides.output == Basis::fixed
             ? w
             : change_basis(w.t().contiguous(), sides.output, spec.layer, plan).t();
}

// The bias of a linear layer or of a norm as planned, in fp64.
at::Tensor rotated_bias(const ParameterStore& store, int64_t parameter, const RotationPlan& plan) {
  const ParameterSpec& spec = store.specs[static_cast<size_t>(parameter)];
  at::Tensor b = store.master(parameter).to(at::kDouble);
  if (!is_residual_norm_bias(spec)) {
    return change_basis(b, sides_of(store.config, spec.role).output, spec.layer, plan);
  }
  if (plan.fold_norms) {
    b = b / norm_weights(store, spec.role, spec.layer);
    if (!b.isfinite().all().item<bool>()) {
      fail(ErrorCode::unsupported,
           "{}: the norm has a weight of 0 where its bias stands; it cannot be folded", spec.name);
    }
  }
  return change_basis(b, Basis::residual, spec.layer, plan);
}

// Every parameter as planned; the norms' weights last, because the others read them.
void rotate_parameters(ParameterStore& store, const RotationPlan& plan) {
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const int64_t parameter = static_cast<int64_t>(i);
    at::Tensor target = store.master(parameter);
    if (target.dim() == 2) {
      target.copy_(rotated_matrix(store, parameter, plan));
    } else if (store.specs[i].kind == ParameterKind::bias) {
      target.copy_(rotated_bias(store, parameter, plan));
    }
  }
  for (size_t i = 0; plan.fold_norms && i < store.specs.size(); ++i) {
    if (is_residual_norm(store.specs[i])) store.master(static_cast<int64_t>(i)).fill_(1.0);
  }
}

}  // namespace

at::Tensor Rotation::apply(const at::Tensor& x) const {
  OSP_CHECK(x.scalar_type() == at::kDouble && x.size(-1) == size(), "rows of {} fp64 numbers, {}",
            size(), x.size(-1));
  if (!signs.defined()) return at::matmul(x, matrix);
  const at::Tensor turned =
      keeps_mean ? hadamard_transform(x, {.block = block, .transposed = true}) : x;
  return hadamard_transform(turned * signs, {.block = block});
}

at::Tensor Rotation::dense() const {
  return signs.defined() ? apply(at::eye(size(), at::kDouble)) : matrix;
}

Rotation random_hadamard(int64_t size, uint64_t seed, const std::string& name, int64_t block) {
  if (block != 0 && size % block != 0) {
    fail(ErrorCode::usage, "{} {} is no multiple of blocks of {}", name, size, block);
  }
  check_hadamard_size(block == 0 ? size : block, block == 0 ? name : name + "'s block");
  Rotation q;
  q.signs = random_signs(size, seed, name);
  q.block = block;
  return q;
}

Rotation random_mean_keeping(int64_t size, uint64_t seed, const std::string& name, int64_t block) {
  Rotation q = random_hadamard(size, seed, name, block);
  q.keeps_mean = true;
  q.signs.view({-1, block == 0 ? size : block}).select(1, 0).fill_(1.0);
  return q;
}

double orthogonality_error(const at::Tensor& matrix) {
  const at::Tensor q = matrix.to(at::kDouble);
  return (at::matmul(q, q.t()) - at::eye(q.size(0), at::kDouble)).abs().max().item<double>();
}

Rotation dense_rotation(const at::Tensor& matrix) {
  const double error = orthogonality_error(matrix);
  OSP_CHECK(error <= kLargestOrthogonalityError, "a rotation that is off by {}", error);
  return {.matrix = matrix.detach().to(at::kDouble).contiguous()};
}

void check_down_block(const ModelConfig& config, int64_t block, const std::string& what) {
  for (const int64_t inner : config.inner_sizes()) {
    if (block != 0 && inner % block != 0) {
      fail(ErrorCode::usage, "{}: blocks of {} do not divide the inner size {}", what, block,
           inner);
    }
    check_hadamard_size(block == 0 ? inner : block, what + ": the block");
  }
}

void rotate_model(ParameterStore& store, const RotationPlan& plan) {
  const c10::NoGradGuard no_graph;
  check_rotations_exact(store.config, plan);
  OSP_CHECK(!store.config.embedding_projection, "EmbProj must be fused before rotations");
  OSP_CHECK(plan.values.empty() || static_cast<int64_t>(plan.values.size()) == store.config.layers,
            "{} value rotations for {} layers", plan.values.size(), store.config.layers);
  if (plan.fold_norms && store.config.tied) store = with_untied_head(store);
  OSP_CHECK(!plan.residual || plan.fold_norms || norms_are_folded(store),
            "R1 needs norm weights of 1");
  rotate_parameters(store, plan);
  sync_compute(store);
}

}  // namespace osp
