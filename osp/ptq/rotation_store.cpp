#include "osp/ptq/rotation_store.h"

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include "osp/base/error.h"

namespace osp {
namespace {

// True if the role is a norm of the residual stream in front of linear layers.
bool normalises_residual(ParameterRole role) {
  switch (role) {
    case ParameterRole::input_norm:
    case ParameterRole::post_attention_norm:
    case ParameterRole::final_norm:
      return true;
    // Norms of something else, or none.
    case ParameterRole::embedding_norm:
    case ParameterRole::query_norm:
    case ParameterRole::key_norm:
    case ParameterRole::attention_sink:
    case ParameterRole::attention_end_norm:
    case ParameterRole::post_feedforward_norm:
    case ParameterRole::embedding:
    case ParameterRole::position_embedding:
    case ParameterRole::embedding_projection:
    case ParameterRole::query:
    case ParameterRole::key:
    case ParameterRole::value:
    case ParameterRole::attention_output:
    case ParameterRole::attention_branch_scale:
    case ParameterRole::router:
    case ParameterRole::gate:
    case ParameterRole::up:
    case ParameterRole::down:
    case ParameterRole::mlp_branch_scale:
    case ParameterRole::head_projection:
    case ParameterRole::head:
      return false;
  }
  OSP_CHECK(false, "unknown parameter role {}", static_cast<int>(role));
}

void set_type(ParameterStore& store, at::ScalarType type) {
  for (Bank& bank : store.banks) {
    bank.master = bank.master.to(type);
    bank.compute = bank.master;
  }
}

// Copies every parameter of `to` that `from` has.
void copy_weights(const ParameterStore& from, ParameterStore& to) {
  const c10::NoGradGuard no_graph;
  for (size_t i = 0; i < to.specs.size(); ++i) {
    const int64_t source = from.find(to.specs[i].name);
    if (source >= 0) to.master(static_cast<int64_t>(i)).copy_(from.master(source));
  }
  sync_compute(to);
}

ParameterStore empty_store(const ModelConfig& config, Part part, at::ScalarType type) {
  ParameterStore store = make_parameters(config, {.part = part});
  set_type(store, type);
  return store;
}

}  // namespace

bool is_residual_norm(const ParameterSpec& spec) {
  return normalises_residual(spec.role) && spec.kind != ParameterKind::bias;
}

bool is_residual_norm_bias(const ParameterSpec& spec) {
  return normalises_residual(spec.role) && spec.kind == ParameterKind::bias;
}

ParameterStore copy_in_fp64(const ParameterStore& store) {
  ParameterStore wide = empty_store(store.config, store.part, at::kDouble);
  copy_weights(store, wide);
  return wide;
}

ParameterStore copy_in_fp32(const ParameterStore& store) {
  ParameterStore copy = make_parameters(store.config, {.part = store.part});
  copy_weights(store, copy);
  return copy;
}

ParameterStore with_untied_head(const ParameterStore& store) {
  ModelConfig config = store.config;
  OSP_CHECK(config.tied, "the head is a matrix of its own already");
  config.tied = false;
  ParameterStore result = empty_store(config, store.part, store.banks[0].master.scalar_type());
  copy_weights(store, result);
  const int64_t head = result.find(ParameterRole::head);
  if (head >= 0) result.master(head).copy_(store.master(store.find(ParameterRole::embedding)));
  sync_compute(result);
  return result;
}

}  // namespace osp
