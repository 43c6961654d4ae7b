#include "osp/model/fuse.h"

#include <ATen/ops/matmul.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "osp/base/error.h"
#include "osp/model/linear_layers.h"
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

int64_t index_of(const ParameterStore& store, const std::string& name) {
  const int64_t index = store.find(name);
  OSP_CHECK(index >= 0, "the model has no parameter {}", name);
  return index;
}

// What the embedding's norm makes of each token's row of E · P_inᵀ.
void fuse_embedding(const ParameterStore& store, at::Tensor out) {
  const at::Tensor table = store.master(index_of(store, "model.embed_tokens.weight"));
  at::Tensor projection;
  if (store.config.embedding_projection) {
    projection = store.master(index_of(store, "model.embed_proj.weight")).t().to(at::kDouble);
  }
  const LinearLayers layers(store, nullptr, /*training=*/false);
  map_rows(table, out, [&](const at::Tensor& rows) {
    const at::Tensor x = projection.defined() ? at::matmul(rows, projection) : rows;
    return store.config.embedding_norm ? layers.norm("model.embed_norm", x).value : x;
  });
}

void fuse_head(const ParameterStore& store, at::Tensor out) {
  const bool tied = store.config.tied;  // and not any more where the embedding has a norm
  const at::Tensor table =
      store.master(index_of(store, tied ? "model.embed_tokens.weight" : "lm_head.weight"));
  if (!store.config.embedding_projection) {
    out.copy_(table);
    return;
  }
  const at::Tensor projection =
      store.master(index_of(store, "lm_head_proj.weight")).to(at::kDouble);
  map_rows(table, out, [&](const at::Tensor& rows) { return at::matmul(rows, projection); });
}

// The name of the scalar on the branch that ends in this parameter; "" if it ends none.
std::string scale_of(const std::string& parameter) {
  for (const std::string end : {"self_attn.o_proj.", "mlp.down_proj."}) {
    const size_t at = parameter.find(end);
    if (at == std::string::npos) continue;
    return parameter.substr(0, at) + end.substr(0, end.find('.')) + ".branch_scale";
  }
  return "";
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
      const at::Tensor weight = store.master(index_of(store, spec.name));
      const std::string scale = store.config.branch_scale ? scale_of(spec.name) : "";
      if (scale.empty()) {
        out.copy_(weight);  // broadcasts SSNorm's scalar over the channels
      } else {
        out.copy_(weight.to(at::kDouble) * store.master(index_of(store, scale)));
      }
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
