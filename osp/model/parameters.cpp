#include "osp/model/parameters.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <map>
#include <span>
#include <tuple>

#include "osp/base/error.h"
#include "osp/base/philox.h"

namespace osp {
namespace {

std::span<float> values(const at::Tensor& t) {
  return {t.data_ptr<float>(), static_cast<size_t>(t.numel())};
}

// [rows, cols] of a parameter as it lies in a bank: vectors and scalars are one row.
std::pair<int64_t, int64_t> bank_shape(const ParameterSpec& spec) {
  return spec.shape.size() == 2 ? std::pair{spec.shape[0], spec.shape[1]}
                                : std::pair{int64_t{1}, spec.shape[0]};
}

// The same members and shape for a tensor of another type.
at::Tensor allocate(const Bank& bank, at::ScalarType type, int64_t rows, int64_t cols) {
  return at::zeros({static_cast<int64_t>(bank.members.size()), rows, cols},
                   at::TensorOptions().dtype(type));
}

at::Tensor member(const at::Tensor& bank, const ParameterStore& store, int64_t parameter) {
  if (!bank.defined()) return {};  // gradients of a store without them
  return bank.select(0, store.slot_of[parameter]).view(store.specs[parameter].shape);
}

}  // namespace

const char* kind_name(ParameterKind kind) {
  switch (kind) {
    case ParameterKind::embedding:
      return "embedding";
    case ParameterKind::head:
      return "head";
    case ParameterKind::embedding_projection:
      return "embedding projection";
    case ParameterKind::matrix:
      return "matrix";
    case ParameterKind::gain:
      return "gain";
    case ParameterKind::bias:
      return "bias";
    case ParameterKind::positions:
      return "positions";
  }
  OSP_CHECK(false, "unknown parameter kind {}", static_cast<int>(kind));
}

namespace {

// Collects specifications under the names of one block, or of no block (layer
// −1).
class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  void begin_block(int64_t layer) {
    layer_ = layer;
    prefix_ = layer < 0 ? "" : fmt::format("model.layers.{}.", layer);
  }
  void add(const std::string& name, std::vector<int64_t> shape, ParameterKind kind) {
    specs_.push_back({prefix_ + name, std::move(shape), kind, layer_});
  }
  // Weights and, for LayerNorm, biases; nothing for a norm without weights.
  void norm(const std::string& name, int64_t channels) {
    if (config_.norm == "simple" || config_.norm == "layer-plain") return;
    const bool scalar = config_.norm == "single-scale" || config_.norm == "none";
    add(name + ".weight", {scalar ? 1 : channels}, ParameterKind::gain);
    if (config_.norm == "layer") add(name + ".bias", {channels}, ParameterKind::bias);
  }
  void matrix(const std::string& name, int64_t out, int64_t in) {
    add(name + ".weight", {out, in}, ParameterKind::matrix);
  }
  // The scalar of the branch that ends in this part of the block.
  void branch_scale(const std::string& part) {
    if (config_.branch_scale) add(part + ".branch_scale", {1}, ParameterKind::gain);
  }
  void bias(bool wanted, const std::string& name, int64_t out) {
    if (wanted) add(name + ".bias", {out}, ParameterKind::bias);
  }
  std::vector<ParameterSpec> take() { return std::move(specs_); }

 private:
  const ModelConfig& config_;
  std::vector<ParameterSpec> specs_;
  std::string prefix_;
  int64_t layer_ = -1;
};

void add_attention(SpecList& list, const ModelConfig& config) {
  const int64_t D = config.width, K = config.head_size;
  const int64_t q = config.heads * K, kv = config.kv_heads * K;
  list.matrix("self_attn.q_proj", q, D);
  list.matrix("self_attn.k_proj", kv, D);
  list.matrix("self_attn.v_proj", kv, D);
  list.bias(config.qkv_bias, "self_attn.q_proj", q);
  list.bias(config.qkv_bias, "self_attn.k_proj", kv);
  list.bias(config.qkv_bias, "self_attn.v_proj", kv);
  if (config.qk_norm) {
    list.norm("self_attn.q_norm", config.qk_norm_wide ? q : K);
    list.norm("self_attn.k_norm", config.qk_norm_wide ? kv : K);
  }
  list.matrix("self_attn.o_proj", D, q);
  list.bias(config.output_bias, "self_attn.o_proj", D);
  list.branch_scale("self_attn");
}

void add_feed_forward(SpecList& list, const ModelConfig& config) {
  const int64_t D = config.width, F = config.inner;
  if (config.gated) list.matrix("mlp.gate_proj", F, D);
  list.matrix("mlp.up_proj", F, D);
  list.bias(config.mlp_bias && config.gated, "mlp.gate_proj", F);
  list.bias(config.mlp_bias, "mlp.up_proj", F);
  list.matrix("mlp.down_proj", D, F);
  list.bias(config.mlp_bias, "mlp.down_proj", D);
  list.branch_scale("mlp");
}

}  // namespace

std::vector<ParameterSpec> parameter_specs(const ModelConfig& config) {
  const int64_t D = config.width, V = config.vocabulary;
  OSP_CHECK(config.head_size > 0 && config.inner > 0 && config.kv_heads > 0,
            "resolve the configuration first");
  SpecList list(config);
  list.add("model.embed_tokens.weight", {V, D}, ParameterKind::embedding);
  if (config.learned_positions) {
    list.add("model.embed_positions.weight", {config.position_offset + config.context, D},
             ParameterKind::positions);
  }
  if (config.embedding_projection) {
    list.add("model.embed_proj.weight", {D, D}, ParameterKind::embedding_projection);
  }
  if (config.embedding_norm) list.norm("model.embed_norm", D);
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    list.begin_block(layer);
    if (config.norm_before()) list.norm("input_layernorm", D);
    add_attention(list, config);
    if (config.norm != "none" && !config.shared_norm) list.norm("post_attention_layernorm", D);
    add_feed_forward(list, config);
    if (config.norm_after) list.norm("post_feedforward_layernorm", D);
  }
  list.begin_block(-1);
  list.norm("model.norm", D);
  if (config.embedding_projection) {
    list.add("lm_head_proj.weight", {D, D}, ParameterKind::embedding_projection);
  }
  if (!config.tied) list.add("lm_head.weight", {V, D}, ParameterKind::head);
  return list.take();
}

at::Tensor ParameterStore::master(int64_t parameter) const {
  return member(banks[bank_of[parameter]].master, *this, parameter);
}

at::Tensor ParameterStore::gradient(int64_t parameter) const {
  return member(banks[bank_of[parameter]].gradient, *this, parameter);
}

at::Tensor ParameterStore::compute(int64_t parameter) const {
  return member(banks[bank_of[parameter]].compute, *this, parameter);
}

int64_t ParameterStore::find(const std::string& name) const {
  for (size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == name) return static_cast<int64_t>(i);
  }
  return -1;
}

int64_t ParameterStore::num_parameters() const {
  int64_t total = 0;
  for (const Bank& bank : banks) total += bank.master.numel();
  return total;
}

ParameterStore make_parameters(const ModelConfig& config, const StoreOptions& options) {
  ParameterStore store;
  store.config = config;
  store.part = options.part;
  store.specs = parameter_specs(config);
  if (options.part) {
    std::erase_if(store.specs,
                  [&](const ParameterSpec& spec) { return spec.layer != *options.part; });
  }
  const int64_t count = static_cast<int64_t>(store.specs.size());
  OSP_CHECK(options.group.empty() || static_cast<int64_t>(options.group.size()) == count,
            "{} groups for {} parameters", options.group.size(), count);
  std::map<std::tuple<ParameterKind, int64_t, int64_t, int64_t>, size_t> index;
  for (int64_t i = 0; i < count; ++i) {
    const auto [rows, cols] = bank_shape(store.specs[i]);
    const int64_t group = options.group.empty() ? 0 : options.group[i];
    const auto [place, is_new] =
        index.try_emplace({store.specs[i].kind, group, rows, cols}, store.banks.size());
    if (is_new) {
      Bank bank;
      bank.name = fmt::format("{} {}x{}", kind_name(store.specs[i].kind), rows, cols);
      bank.kind = store.specs[i].kind;
      bank.group = group;
      store.banks.push_back(std::move(bank));
    }
    Bank& bank = store.banks[place->second];
    store.bank_of.push_back(static_cast<int64_t>(place->second));
    store.slot_of.push_back(static_cast<int64_t>(bank.members.size()));
    bank.members.push_back(i);
  }
  for (Bank& bank : store.banks) {
    const auto [rows, cols] = bank_shape(store.specs[bank.members[0]]);
    bank.master = allocate(bank, at::kFloat, rows, cols);
    if (options.gradients) bank.gradient = allocate(bank, at::kFloat, rows, cols);
    bank.compute = options.bf16 ? allocate(bank, at::kBFloat16, rows, cols) : bank.master;
  }
  return store;
}

// clang-format off
// | tensor                           | law                                    | standard deviation   |
// |----------------------------------|----------------------------------------|----------------------|
// | embedding, head, positions       | normal                                 | init_std             |
// | q, k, v, gate, up                | normal                                 | init_std             |
// | o, down (end of a branch)        | normal                                 | init_std / sqrt(2 L) |
// | o, down before a branch scale    | normal                                 | init_std             |
// | EmbProj                          | orthogonal: Q of a normal matrix's QR, | 1 / sqrt(D)          |
// |                                  | columns signed so that diag(R) > 0     |                      |
// | gains                            | 1                                      | 0                    |
// | branch scales                    | branch_scale_init                      | 0                    |
// | biases                           | 0                                      | 0                    |
// clang-format on
void initialize_parameters(ParameterStore& store, uint64_t seed) {
  const ModelConfig& config = store.config;
  const double branch_std =
      config.branch_scale ? config.init_std
                          : config.init_std / std::sqrt(2.0 * static_cast<double>(config.layers));
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    at::Tensor weight = store.master(static_cast<int64_t>(i));
    const RandomStream random(seed, spec.name);
    if (spec.kind == ParameterKind::gain) {
      weight.fill_(spec.name.ends_with(".branch_scale") ? config.branch_scale_init : 1.0);
    } else if (spec.kind == ParameterKind::bias) {
      weight.zero_();
    } else if (spec.kind == ParameterKind::embedding_projection) {
      random.fill_normal(values(weight), 0.0, 1.0);
      const auto [q, r] = at::linalg_qr(weight.to(at::kDouble));
      weight.copy_(q * r.diagonal().sign().unsqueeze(0));
    } else {
      const bool ends_branch =
          spec.name.ends_with("o_proj.weight") || spec.name.ends_with("down_proj.weight");
      random.fill_normal(values(weight), 0.0, ends_branch ? branch_std : config.init_std);
    }
  }
  sync_compute(store);
}

void sync_compute(ParameterStore& store) {
  for (Bank& bank : store.banks) {
    if (!bank.compute.is_same(bank.master)) bank.compute.copy_(bank.master);
  }
}

void set_compute_type(ParameterStore& store, bool bf16) {
  for (Bank& bank : store.banks) {
    bank.compute = bf16 ? bank.master.to(at::kBFloat16) : bank.master;
  }
}

void zero_gradients(ParameterStore& store) {
  for (Bank& bank : store.banks) {
    if (bank.gradient.defined()) bank.gradient.zero_();
  }
}

}  // namespace osp
