#include "osp/model/fuse.h"

#include <ATen/ops/matmul.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "osp/base/error.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

// Rows of a table that are widened to fp64 at a time: bounds the extra memory to a few tens of MB.
constexpr int64_t kRowsAtATime = 1024;

// out = table · projection in fp64, rounded to fp32 at the end.
void multiply_rows(const at::Tensor& table, const at::Tensor& projection, at::Tensor out) {
  const at::Tensor wide = projection.to(at::kDouble);
  for (int64_t row = 0; row < table.size(0); row += kRowsAtATime) {
    const int64_t count = std::min(kRowsAtATime, table.size(0) - row);
    out.narrow(0, row, count).copy_(at::matmul(table.narrow(0, row, count).to(at::kDouble), wide));
  }
}

int64_t index_of(const ParameterStore& store, const std::string& name) {
  const int64_t index = store.find(name);
  OSP_CHECK(index >= 0, "the model has no parameter {}", name);
  return index;
}

}  // namespace

bool needs_fusing(const ModelConfig& config) {
  return config.embedding_projection || config.norm == "single-scale" || config.norm == "simple";
}

ModelConfig fused_config(ModelConfig config) {
  if (!config.layer_norm()) config.norm = "rms";
  config.embedding_projection = false;
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
    const at::Tensor weight = store.master(index_of(store, spec.name));
    if (store.config.embedding_projection && spec.kind == ParameterKind::embedding) {
      multiply_rows(weight, store.master(index_of(store, "model.embed_proj.weight")).t(), out);
    } else if (store.config.embedding_projection && spec.kind == ParameterKind::head) {
      multiply_rows(weight, store.master(index_of(store, "lm_head_proj.weight")), out);
    } else {
      out.copy_(weight);  // broadcasts SSNorm's scalar over the channels
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
