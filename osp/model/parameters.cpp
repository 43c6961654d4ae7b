#include "osp/model/parameters.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <tuple>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/memory.h"
#include "osp/base/philox.h"
#include "osp/ops/tensor_library.h"

namespace osp {
namespace {

std::span<float> values(const at::Tensor& t) {
  return {t.data_ptr<float>(), static_cast<size_t>(t.numel())};
}

// [rows, cols] of a parameter in its bank: vectors and scalars are one row.
std::pair<int64_t, int64_t> bank_shape(const ParameterSpec& spec) {
  return spec.shape.size() == 2 ? std::pair{spec.shape[0], spec.shape[1]}
                                : std::pair{int64_t{1}, spec.shape[0]};
}

// A zero tensor for the members of a bank.
at::Tensor allocate(const Bank& bank, at::ScalarType type, int64_t rows, int64_t cols) {
  return at::zeros({static_cast<int64_t>(bank.members.size()), rows, cols},
                   at::TensorOptions().dtype(type));
}

at::Tensor member(const at::Tensor& bank, const ParameterStore& store, int64_t parameter) {
  if (!bank.defined()) return {};  // gradients of a store without them
  return bank.select(0, store.slot_of[parameter]).view(store.specs[parameter].shape);
}

template <class Map, class Key>
int64_t position_in(const Map& map, const Key& key) {
  const auto found = map.find(key);
  return found == map.end() ? -1 : found->second;
}

// One number for what find() is asked for.
uint64_t role_key(ParameterRole role, int64_t layer, int64_t expert, bool bias) {
  return static_cast<uint64_t>(layer + 1) << 32 | static_cast<uint64_t>(expert + 1) << 12 |
         static_cast<uint64_t>(role) << 1 | static_cast<uint64_t>(bias);
}

// Collects the specifications of one block after another, or of no block (kNoLayer).
class SpecList {
 public:
  explicit SpecList(const ModelConfig& config) : config_(config) {}

  void begin_block(int64_t layer) { layer_ = layer; }
  void weight(ParameterRole role, std::vector<int64_t> shape, int64_t expert = kNoExpert) {
    specs_.push_back({parameter_name(role, layer_, expert), std::move(shape), role,
                      weight_kind(role), layer_, expert});
  }
  void bias(bool wanted, ParameterRole role, int64_t out, int64_t expert = kNoExpert) {
    if (!wanted) return;
    specs_.push_back(
        {bias_name(role, layer_, expert), {out}, role, ParameterKind::bias, layer_, expert});
  }
  // Weights and, for LayerNorm, biases; nothing for a norm without weights.
  void norm(ParameterRole role, int64_t channels) {
    if (config_.norm == "simple" || config_.norm == "layer-plain") return;
    const bool scalar = config_.norm == "single-scale" || config_.norm == "none";
    weight(role, {scalar ? 1 : channels});
    bias(config_.norm == "layer", role, channels);
  }
  void branch_scale(ParameterRole role) {
    if (config_.branch_scale) weight(role, {1});
  }
  std::vector<ParameterSpec> take() { return std::move(specs_); }

 private:
  const ModelConfig& config_;
  std::vector<ParameterSpec> specs_;
  int64_t layer_ = kNoLayer;
};

void add_attention(SpecList& list, const ModelConfig& config) {
  const int64_t D = config.width, K = config.head_size;
  const int64_t q = config.heads * K, kv = config.kv_heads * K;
  list.weight(ParameterRole::query, {q, D});
  list.weight(ParameterRole::key, {kv, D});
  list.weight(ParameterRole::value, {kv, D});
  list.bias(config.qkv_bias, ParameterRole::query, q);
  list.bias(config.qkv_bias, ParameterRole::key, kv);
  list.bias(config.qkv_bias, ParameterRole::value, kv);
  if (config.qk_norm) {
    list.norm(ParameterRole::query_norm, config.qk_norm_wide ? q : K);
    list.norm(ParameterRole::key_norm, config.qk_norm_wide ? kv : K);
  }
  if (config.attention_sinks) list.weight(ParameterRole::attention_sink, {config.heads});
  list.weight(ParameterRole::attention_output, {D, q});
  list.bias(config.output_bias, ParameterRole::attention_output, D);
  list.branch_scale(ParameterRole::attention_branch_scale);
}

void add_experts(SpecList& list, const ModelConfig& config) {
  const int64_t D = config.width, F = config.expert_inner;
  const bool biased = config.expert_bias;
  list.weight(ParameterRole::router, {config.experts, D});
  list.bias(biased, ParameterRole::router, config.experts);
  for (int64_t expert = 0; expert < config.experts; ++expert) {
    list.weight(ParameterRole::gate, {F, D}, expert);
    list.weight(ParameterRole::up, {F, D}, expert);
    list.bias(biased, ParameterRole::gate, F, expert);
    list.bias(biased, ParameterRole::up, F, expert);
    list.weight(ParameterRole::down, {D, F}, expert);
    list.bias(biased, ParameterRole::down, D, expert);
  }
}

void add_feed_forward(SpecList& list, const ModelConfig& config) {
  const int64_t D = config.width, F = config.inner;
  if (config.gated) list.weight(ParameterRole::gate, {F, D});
  list.weight(ParameterRole::up, {F, D});
  list.bias(config.mlp_bias && config.gated, ParameterRole::gate, F);
  list.bias(config.mlp_bias, ParameterRole::up, F);
  list.weight(ParameterRole::down, {D, F});
  list.bias(config.mlp_bias, ParameterRole::down, D);
  list.branch_scale(ParameterRole::mlp_branch_scale);
}

}  // namespace

std::vector<ParameterSpec> parameter_specs(const ModelConfig& config) {
  const int64_t D = config.width, V = config.vocabulary;
  OSP_CHECK(config.head_size > 0 && config.inner > 0 && config.kv_heads > 0,
            "resolve the configuration first");
  SpecList list(config);
  // In front of the blocks.
  list.weight(ParameterRole::embedding, {V, D});
  if (config.learned_positions) {
    list.weight(ParameterRole::position_embedding, {config.position_offset + config.context, D});
  }
  if (config.embedding_projection) list.weight(ParameterRole::embedding_projection, {D, D});
  if (config.embedding_norm) list.norm(ParameterRole::embedding_norm, D);
  // The blocks.
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    list.begin_block(layer);
    if (config.norm_before()) list.norm(ParameterRole::input_norm, D);
    add_attention(list, config);
    if (config.norm_around) list.norm(ParameterRole::attention_end_norm, D);
    if (config.norm != "none" && !config.shared_norm) {
      list.norm(ParameterRole::post_attention_norm, D);
    }
    config.routes(layer) ? add_experts(list, config) : add_feed_forward(list, config);
    if (config.norm_after || config.norm_around) {
      list.norm(ParameterRole::post_feedforward_norm, D);
    }
  }
  // Behind the blocks.
  list.begin_block(kNoLayer);
  list.norm(ParameterRole::final_norm, D);
  if (config.embedding_projection) list.weight(ParameterRole::head_projection, {D, D});
  if (!config.tied) list.weight(ParameterRole::head, {V, D});
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
  return position_in(index_of_name, name);
}

int64_t ParameterStore::find(ParameterRole role, int64_t layer, int64_t expert) const {
  return position_in(index_of_role, role_key(role, layer, expert, false));
}

int64_t ParameterStore::find_bias(ParameterRole role, int64_t layer, int64_t expert) const {
  return position_in(index_of_role, role_key(role, layer, expert, true));
}

ParameterStore store_without_parameters(const ModelConfig& config) {
  prepare_vector_functions();
  ParameterStore store;
  store.config = config;
  Bank& bank = store.banks.emplace_back();
  bank.master = bank.compute = at::empty({0}, at::kFloat);
  return store;
}

int64_t count_parameters(const ModelConfig& config) {
  int64_t count = 0;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    int64_t size = 1;
    for (const int64_t n : spec.shape) size *= n;
    count += size;
  }
  return count;
}

int64_t ParameterStore::num_parameters() const {
  int64_t total = 0;
  for (const Bank& bank : banks) total += bank.master.numel();
  return total;
}

ParameterStore make_parameters(const ModelConfig& config, const StoreOptions& options) {
  prepare_vector_functions();
  ParameterStore store;
  store.config = config;
  store.part = options.part;
  store.specs = parameter_specs(config);
  if (options.part) {
    std::erase_if(store.specs,
                  [&](const ParameterSpec& spec) { return spec.layer != *options.part; });
  }
  // Sort the parameters into banks.
  const int64_t count = static_cast<int64_t>(store.specs.size());
  OSP_CHECK(options.group.empty() || static_cast<int64_t>(options.group.size()) == count,
            "{} groups for {} parameters", options.group.size(), count);
  std::map<std::tuple<ParameterKind, int64_t, int64_t, int64_t>, size_t> index;
  for (int64_t i = 0; i < count; ++i) {
    const ParameterSpec& spec = store.specs[i];
    store.index_of_name.emplace(spec.name, i);
    const bool is_bias = spec.kind == ParameterKind::bias;
    store.index_of_role.emplace(role_key(spec.role, spec.layer, spec.expert, is_bias), i);
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
  // Compare with the machine, then allocate the banks.
  const double each = 4.0 + (options.gradients ? 4.0 : 0.0) + (options.bf16 ? 2.0 : 0.0);
  const auto parameters = static_cast<double>(store.num_parameters());
  require_memory(each * parameters,
                 fmt::format("a model of {} parameters", format_count(store.num_parameters())),
                 "use a smaller model, or a machine with more memory");
  for (Bank& bank : store.banks) {
    const auto [rows, cols] = bank_shape(store.specs[bank.members[0]]);
    bank.master = allocate(bank, at::kFloat, rows, cols);
    if (options.gradients) bank.gradient = allocate(bank, at::kFloat, rows, cols);
    bank.compute = options.bf16 ? allocate(bank, at::kBFloat16, rows, cols) : bank.master;
  }
  return store;
}

namespace {

// Q of a normal matrix's QR decomposition, columns signed so that diag(R) > 0.
void fill_orthogonal(const RandomStream& random, at::Tensor weight) {
  random.fill_normal(values(weight), 0.0, 1.0);
  const auto [q, r] = at::linalg_qr(weight.to(at::kDouble));
  weight.copy_(q * r.diagonal().sign().unsqueeze(0));
}

}  // namespace

// clang-format off
// | tensor                          | law                                  | standard deviation   |
// |---------------------------------|--------------------------------------|----------------------|
// | embedding, head, positions      | normal                               | init_std             |
// | q, k, v, router, gate, up, sink | normal                               | init_std             |
// | o, down (end of a branch)       | normal                               | init_std / sqrt(2 L) |
// | o, down before a branch scale   | normal                               | init_std             |
// | EmbProj                         | Q of a normal matrix's QR,           | 1 / sqrt(D)          |
// |                                 | columns signed so that diag(R) > 0   |                      |
// | gains                           | 1                                    | 0                    |
// | branch scales                   | branch_scale_init                    | 0                    |
// | biases                          | 0                                    | 0                    |
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
    if (spec.kind == ParameterKind::bias) {
      weight.zero_();
      continue;
    }
    switch (spec.role) {
      case ParameterRole::embedding:
      case ParameterRole::position_embedding:
      case ParameterRole::head:
      case ParameterRole::query:
      case ParameterRole::key:
      case ParameterRole::value:
      case ParameterRole::attention_sink:
      case ParameterRole::router:
      case ParameterRole::gate:
      case ParameterRole::up:
        random.fill_normal(values(weight), 0.0, config.init_std);
        break;
      case ParameterRole::attention_output:
      case ParameterRole::down:
        random.fill_normal(values(weight), 0.0, branch_std);
        break;
      case ParameterRole::embedding_projection:
      case ParameterRole::head_projection:
        fill_orthogonal(random, weight);
        break;
      case ParameterRole::embedding_norm:
      case ParameterRole::input_norm:
      case ParameterRole::query_norm:
      case ParameterRole::key_norm:
      case ParameterRole::post_attention_norm:
      case ParameterRole::attention_end_norm:
      case ParameterRole::post_feedforward_norm:
      case ParameterRole::final_norm:
        weight.fill_(1.0);
        break;
      case ParameterRole::attention_branch_scale:
      case ParameterRole::mlp_branch_scale:
        weight.fill_(config.branch_scale_init);
        break;
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
