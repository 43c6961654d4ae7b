#include "osp/model/fuse.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/matmul.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "osp/base/error.h"
#include "osp/model/parameter_access.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

// Rows of a table that are widened to fp64 at a time: bounds the extra memory to a few tens of MB.
constexpr int64_t kRowsAtATime = 1024;

// out = f(rows of table in fp64), rounded to fp32 at the end.
template <class Function>
void map_rows(const at::Tensor& table, at::Tensor out, const Function& f) {
  for (int64_t row = 0; row < table.size(0); row += kRowsAtATime) {
    const int64_t count = std::min(kRowsAtATime, table.size(0) - row);
    out.narrow(0, row, count).copy_(f(table.narrow(0, row, count).to(at::kDouble)));
  }
}

// A master weight that the model must have.
at::Tensor weight_of(const ParameterStore& store, ParameterRole role, int64_t layer = kNoLayer) {
  const int64_t index = store.find(role, layer);
  OSP_CHECK(index >= 0, "the model has no parameter {}", parameter_name(role, layer));
  return store.master(index);
}

// The embedding's norm of each token's row of E · P_inᵀ.
void fuse_embedding(const ParameterStore& store, at::Tensor out) {
  const at::Tensor table = weight_of(store, ParameterRole::embedding);
  at::Tensor projection;
  if (store.config.embedding_projection) {
    projection = weight_of(store, ParameterRole::embedding_projection).t().to(at::kDouble);
  }
  const ParameterAccess parameters(store, nullptr, /*training=*/false);
  map_rows(table, out, [&](const at::Tensor& rows) {
    const at::Tensor x = projection.defined() ? at::matmul(rows, projection) : rows;
    if (!store.config.embedding_norm) return x;
    return parameters.norm(ParameterRole::embedding_norm, kNoLayer, x).value;
  });
}

void fuse_head(const ParameterStore& store, at::Tensor out) {
  // A tied head gets a table of its own where the embedding's norm is fused.
  const at::Tensor table =
      weight_of(store, store.config.tied ? ParameterRole::embedding : ParameterRole::head);
  if (!store.config.embedding_projection) {
    out.copy_(table);
    return;
  }
  const at::Tensor projection = weight_of(store, ParameterRole::head_projection).to(at::kDouble);
  map_rows(table, out, [&](const at::Tensor& rows) { return at::matmul(rows, projection); });
}

// The scalar on the branch that ends in this role's weight and bias; none elsewhere.
std::optional<ParameterRole> branch_scale_of(ParameterRole role) {
  switch (role) {
    case ParameterRole::attention_output:
      return ParameterRole::attention_branch_scale;
    case ParameterRole::down:
      return ParameterRole::mlp_branch_scale;
    // Inside a branch, or outside the branches.
    case ParameterRole::embedding:
    case ParameterRole::position_embedding:
    case ParameterRole::embedding_projection:
    case ParameterRole::embedding_norm:
    case ParameterRole::input_norm:
    case ParameterRole::query:
    case ParameterRole::key:
    case ParameterRole::value:
    case ParameterRole::query_norm:
    case ParameterRole::key_norm:
    case ParameterRole::attention_sink:
    case ParameterRole::post_attention_norm:
    case ParameterRole::router:
    case ParameterRole::gate:
    case ParameterRole::up:
    case ParameterRole::final_norm:
    case ParameterRole::head_projection:
    case ParameterRole::head:
      return std::nullopt;
    // Norms behind the branches and branch scales contradict each other
    // (resolved_config(), config.h).
    case ParameterRole::attention_end_norm:
    case ParameterRole::post_feedforward_norm:
    // The fused model has no scales.
    case ParameterRole::attention_branch_scale:
    case ParameterRole::mlp_branch_scale:
      break;
  }
  OSP_CHECK(false, "role {} in a fused model with branch scales", static_cast<int>(role));
}

// A parameter of the fused model that has its counterpart in `store`.
void fuse_parameter(const ParameterStore& store, const ParameterSpec& spec, at::Tensor out) {
  const int64_t index = store.find(spec.name);
  OSP_CHECK(index >= 0, "the model has no parameter {}", spec.name);
  const at::Tensor weight = store.master(index);
  const auto scale = store.config.branch_scale ? branch_scale_of(spec.role) : std::nullopt;
  if (scale) {
    out.copy_(weight.to(at::kDouble) * weight_of(store, *scale, spec.layer));
  } else {
    out.copy_(weight);  // broadcasts SSNorm's scalar over the channels
  }
}

}  // namespace

bool needs_fusing(const ModelConfig& config) {
  return config.embedding_projection || config.embedding_norm || config.branch_scale ||
         config.norm == "single-scale" || config.norm == "simple";
}

ModelConfig fused_config(ModelConfig config) {
  if (!config.layer_norm() && config.norm != "none") config.norm = "rms";
  if (config.embedding_norm) config.tied = false;
  config.embedding_projection = config.embedding_norm = config.branch_scale = false;
  config.branch_scale_init = 0.0;
  return config;
}

ParameterStore fuse(const ParameterStore& store) {
  const c10::NoGradGuard no_graph;
  ParameterStore fused = make_parameters(fused_config(store.config), {.part = store.part});
  for (size_t i = 0; i < fused.specs.size(); ++i) {
    const ParameterSpec& spec = fused.specs[i];
    at::Tensor out = fused.master(static_cast<int64_t>(i));
    if (spec.kind == ParameterKind::gain && store.config.norm == "simple") {
      out.fill_(1.0);
      continue;
    }
    if (spec.kind == ParameterKind::embedding) {
      fuse_embedding(store, out);
    } else if (spec.kind == ParameterKind::head) {
      fuse_head(store, out);
    } else {
      fuse_parameter(store, spec, out);
    }
  }
  sync_compute(fused);
  return fused;
}

LogitDifference compare_logits(const ParameterStore& a, const ParameterStore& b,
                               const at::Tensor& tokens_BT) {
  const c10::NoGradGuard no_graph;
  const at::Tensor of_a = forward_logits(a, tokens_BT);
  const at::Tensor of_b = forward_logits(b, tokens_BT);
  LogitDifference difference;
  difference.largest = of_a.sub(of_b).abs().max().item<double>();
  difference.scale = of_a.abs().max().item<double>();
  difference.relative =
      difference.scale > 0
          ? difference.largest / difference.scale
          : (difference.largest == 0 ? 0.0 : std::numeric_limits<double>::infinity());
  return difference;
}

}  // namespace osp
