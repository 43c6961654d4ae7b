#include "osp/train/state.h"

#include <ATen/ops/aminmax.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/json_text.h"
#include "osp/formats/safetensors.h"
#include "osp/model/model_dir.h"
#include "osp/optim/optimizers.h"
#include "osp/train/checkpoint.h"
#include "osp/train/device.h"
#include "osp/train/exchange.h"
#include "osp/train/snapshot.h"
#include "osp/train/step.h"

namespace osp {
namespace {

// Copies the tensors of a file into optimizer states of the same names, types and shapes.
void read_optimizers(TrainState& state, const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::open(path);
  std::set<std::string> expected;
  for (const auto& optimizer : state.optimizers) {
    for (const auto& [name, tensor] : optimizer->state()) {
      expected.insert(name);
      const TensorView& view = file.at(name);
      const StatePlace place = place_of_state(state, name, tensor);
      if (view.dtype != dtype_name(tensor.scalar_type()) || !place.fits(view.shape)) {
        fail(ErrorCode::damaged, "{}: {} has another type or shape than this recipe's optimizer",
             path, name);
      }
      void* data = const_cast<std::byte*>(view.data.data());  // only read
      const at::Tensor whole = at::from_blob(data, view.shape, tensor.options().device(at::kCPU));
      tensor.copy_(whole.view({-1}).narrow(0, place.first, tensor.numel()).view(tensor.sizes()));
    }
  }
  for (const auto& [name, view] : file.tensors()) {
    if (!expected.count(name)) {
      fail(ErrorCode::damaged, "{}: {} is no state of this recipe's optimizers", path, name);
    }
  }
}

// Weights of one model mean nothing in another that computes with them in another way, though all
// shapes are equal: refuses such a pair, naming the first difference.
void check_function(const ModelConfig& theirs, const ModelConfig& ours, const std::string& path) {
  const auto compare = [&](auto member, const char* what, const char* key) {
    if (theirs.*member == ours.*member) return;
    const std::string advice =
        key != nullptr ? fmt::format("set {} as in its config.json", key)
                       : std::string("no recipe can say it, so osp cannot train this model");
    fail(ErrorCode::usage, "{}: {} is another than in this recipe's model; {}", path, what, advice);
  };
  compare(&ModelConfig::heads, "the number of heads", "model.heads");
  compare(&ModelConfig::kv_heads, "the number of key and value heads", "model.kv_heads");
  compare(&ModelConfig::head_size, "the size of heads", "model.head_size");
  compare(&ModelConfig::norm, "the kind of norm", "model.norm");
  compare(&ModelConfig::norm_after, "the place of the norms", nullptr);
  compare(&ModelConfig::norm_around, "the place of the norms", nullptr);
  compare(&ModelConfig::parallel, "the order of the branches", nullptr);
  compare(&ModelConfig::shared_norm, "the norm of the branches", nullptr);
  compare(&ModelConfig::qk_norm_wide, "the norm of queries and keys", nullptr);
  compare(&ModelConfig::gated, "the feed-forward network", nullptr);
  compare(&ModelConfig::activation, "the activation function", nullptr);
  compare(&ModelConfig::clip_qkv, "the clamp of queries, keys and values", nullptr);
  compare(&ModelConfig::rotary_size, "the rotated part of a head", nullptr);
  compare(&ModelConfig::rope_scaling, "the scaling of the rotary embedding", nullptr);
  compare(&ModelConfig::local_rope_theta, "the rotary embedding of some blocks", nullptr);
  compare(&ModelConfig::learned_positions, "the kind of positions", nullptr);
  compare(&ModelConfig::position_offset, "the first position", nullptr);
  compare(&ModelConfig::window, "the sliding window", nullptr);
  compare(&ModelConfig::first_window_layer, "the sliding window of some blocks", nullptr);
  compare(&ModelConfig::full_layers, "the sliding window of some blocks", nullptr);
  compare(&ModelConfig::unrotated_layers, "the set of blocks without rotary embedding", nullptr);
  compare(&ModelConfig::embedding_multiplier, "the factor of the embedding", nullptr);
  compare(&ModelConfig::residual_multiplier, "the factor of the branches", nullptr);
  compare(&ModelConfig::attention_multiplier, "the factor of attention's logits", nullptr);
  compare(&ModelConfig::logit_divisor, "the divisor of the logits", nullptr);
  compare(&ModelConfig::attention_softcap, "the cap of attention's logits", nullptr);
  compare(&ModelConfig::logit_softcap, "the cap of the logits", nullptr);
}

void read_weights(TrainState& state, const std::string& path, ErrorCode code) {
  if (load_model_config(path).model.has_experts()) {
    fail(ErrorCode::unsupported,
         "{}: has experts, and osp does not train mixtures of experts; it reads, measures and "
         "quantizes them",
         path);
  }
  const ParameterStore loaded = load_model_dir(path);
  for (const ParameterSpec& spec : state.store.specs) {
    const int64_t source = loaded.find(spec.name);
    if (source < 0) {
      fail(code, "{}: has no tensor {}, which this recipe's model needs", path, spec.name);
    }
    if (loaded.specs[source].shape != spec.shape) {
      fail(code, "{}: {} has another shape than this recipe's model needs", path, spec.name);
    }
    state.store.master(state.store.find(spec.name)).copy_(loaded.master(source));
  }
  for (const ParameterSpec& spec : loaded.specs) {
    if (state.store.find(spec.name) < 0) {
      fail(code, "{}: has a tensor {}, which this recipe's model has not", path, spec.name);
    }
  }
  if (code == ErrorCode::usage) check_function(loaded.config, state.store.config, path);
  sync_compute(state.store);
  state.masters_complete = true;
}

}  // namespace

TrainState::TrainState(const Recipe& resolved_recipe, const Ranks& its_ranks)
    : recipe(resolved_recipe),
      ranks(its_ranks),
      routing(
          route_parameters(parameter_specs(recipe.model), recipe.optim, recipe.model.head_size)),
      store(make_parameters(recipe.model, {.bf16 = recipe.train.precision == "bf16",
                                           .gradients = true,
                                           .group = routing.group_of})),
      guard(recipe.guard) {}

std::unique_ptr<TrainState> make_state(const Recipe& resolved_recipe, const Ranks& ranks) {
  auto state = std::make_unique<TrainState>(resolved_recipe, ranks);
  initialize_parameters(state->store, uint64_t(state->recipe.run.seed));
  move_banks(state->store, state->recipe.train.device);
  if (state->recipe.train.exact_ranks && state->groups() > 1) {
    for (OptimizerGroup& group : state->routing.groups) group.thread_per_matrix = true;
  }
  const std::vector<BankWork> work =
      work_of_banks(state->store.specs, state->routing, state->recipe.optim);
  OSP_CHECK(work.size() == state->store.banks.size(), "{} banks, but {} to be owned",
            state->store.banks.size(), work.size());
  state->owners = assign_owners(work, ranks.size());
  state->owned = owned_part(state->store, state->owners, ranks.rank());
  separate_owned_masters(*state);
  state->optimizers = make_optimizers(state->owned, state->routing, state->recipe.optim);
  return state;
}

ParameterStore master_weights(const TrainState& state) {
  ParameterStore store = state.store;
  for (Bank& bank : store.banks) {
    bank.master = bank.master.cpu();
    bank.compute = bank.master;
    bank.gradient = at::Tensor();
  }
  return store;
}

std::string first_not_finite(const TrainState& state) {
  // Both pass over a tensor once and allocate nothing of its size.
  const auto finite = [](const at::Tensor& t) {
    if (!at::isFloatingType(t.scalar_type()) || t.numel() == 0) return true;
    if (t.scalar_type() == at::kFloat && t.is_contiguous())
      return std::isfinite(gradient_norm({t}));
    const auto [least, most] = at::aminmax(t);
    return std::isfinite(least.item<double>()) && std::isfinite(most.item<double>());
  };
  for (const Bank& bank : state.owned.banks) {
    if (!finite(bank.master)) return bank.name;
  }
  for (const auto& optimizer : state.optimizers) {
    for (const auto& [name, tensor] : optimizer->state()) {
      if (!finite(tensor)) return name;
    }
  }
  return "";
}

uint64_t load_snapshot(TrainState& state, const std::string& folder) {
  read_weights(state, folder, ErrorCode::damaged);
  read_optimizers(state, folder + "/" + kOptimizerFile);
  const std::string where = folder + "/" + kTrainerFile;
  const Json trainer = read_json_file(where);
  state.step = json_int(trainer, "step", where);
  state.watched = json_bool(trainer, "watched", where);
  state.seconds = json_number(trainer, "seconds", where);
  if (!trainer.contains("guard")) fail(ErrorCode::damaged, "{}: has no guard", where);
  state.guard.from_json(trainer["guard"], where);
  return uint64_t(json_int(trainer, "metrics_bytes", where));
}

void init_from(TrainState& state, const std::string& path, bool with_optimizer) {
  if (path_exists(path + "/manifest.json")) verify_checkpoint(path);
  read_weights(state, path, ErrorCode::usage);
  if (!with_optimizer) return;
  if (!path_exists(path + "/" + kOptimizerFile)) {
    fail(ErrorCode::usage, "{}: has no {}; --with-optimizer needs a checkpoint folder", path,
         kOptimizerFile);
  }
  read_optimizers(state, path + "/" + kOptimizerFile);
}

}  // namespace osp
