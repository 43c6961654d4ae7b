#include "osp/ptq/rotation_store.h"

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include "osp/base/error.h"

namespace osp {
namespace {

bool has_norm_name(const std::string& name, const std::string& ending) {
  return name == "model.norm" + ending || name.ends_with(".input_layernorm" + ending) ||
         name.ends_with(".post_attention_layernorm" + ending);
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

bool is_residual_norm(const ParameterSpec& spec) { return has_norm_name(spec.name, ".weight"); }

bool is_residual_norm_bias(const ParameterSpec& spec) { return has_norm_name(spec.name, ".bias"); }

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
  const int64_t head = result.find("lm_head.weight");
  if (head >= 0) result.master(head).copy_(store.master(store.find("model.embed_tokens.weight")));
  sync_compute(result);
  return result;
}

}  // namespace osp
