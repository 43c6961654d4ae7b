// Distance of Muon's Newton–Schulz result from the polar factor U Vᵀ on the momentum of a real run,
// for every set of coefficients and every normalisation.
//
//   polar_error_microbench CHECKPOINT   a step-N folder of `osp train` with a recipe that uses Muon
//
// Prints for each kind of matrix the singular values of its momentum over its Frobenius norm, and
// for each setting:
//   the relative error ‖O − U Vᵀ‖_F / ‖U Vᵀ‖_F (mean, least and largest over the matrices; U Vᵀ
//   from an fp64 SVD), the singular values of O, ‖O‖_F over ‖U Vᵀ‖_F, and the mean error once O
//   has the norm of U Vᵀ (optim.renormalize).
// "fp32" is the naive twin in fp32; "trained" is the trainer's path on this CPU (bf16); "8-bit" is
// that path on momentum rounded as by optim.momentum_bits = 8, against U Vᵀ of the momentum before
// rounding. All measure the stored buffer: the trainer orthogonalises g + β buffer, but a
// checkpoint has no gradient.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/linalg_svdvals.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "osp/base/error.h"
#include "osp/ops/isa.h"
#include "osp/ops/tensor_library.h"
#include "osp/optim/muon.h"
#include "osp/optim/newton_schulz.h"
#include "osp/optim/quantized_momentum.h"
#include "osp/train/checkpoint.h"
#include "osp/train/state.h"

namespace osp {
namespace {

// The row of the table that a matrix of the role is counted in.
std::string kind_of(ParameterRole role) {
  if (weight_kind(role) == ParameterKind::embedding_projection) return "EmbProj";
  const std::optional<BlockLinear> layer = block_linear(role);
  if (!layer) return "other";
  switch (*layer) {
    case BlockLinear::query:
      return "query";
    case BlockLinear::key:
      return "key";
    case BlockLinear::value:
      return "value";
    case BlockLinear::attention_output:
      return "output";
    case BlockLinear::gate:
      return "gate";
    case BlockLinear::up:
      return "up";
    case BlockLinear::down:
      return "down";
  }
  OSP_CHECK(false, "unknown linear layer {}", static_cast<int>(*layer));
}

// Reads a training state from a checkpoint alone; fields missing in its recipe have their defaults.
std::unique_ptr<TrainState> state_of(const std::string& folder) {
  verify_checkpoint(folder);
  Recipe recipe;
  const std::string path = folder + "/recipe.json";
  recipe_table(recipe).from_json(read_json_file(path), path);
  recipe.train.device = "cpu";
  auto state = make_state(recipe);
  load_snapshot(*state, folder);
  return state;
}

// The momentum of every matrix under Muon, fp32 [rows, cols], by kind.
std::map<std::string, std::vector<at::Tensor>> momentum_by_kind(const TrainState& state) {
  std::map<std::string, at::Tensor> tensors;
  for (const auto& optimizer : state.optimizers) {
    for (const auto& [name, tensor] : optimizer->state()) tensors[name] = tensor;
  }
  std::map<std::string, std::vector<at::Tensor>> result;
  for (const Bank& bank : state.store.banks) {
    const OptimizerGroup& group = state.routing.groups[size_t(bank.group)];
    if (group.optimizer != &kMuonRow) continue;
    if (group.split_rows > 0) fail(ErrorCode::usage, "a run with optim.per_head is not supported");
    const std::string name = fmt::format("{}.{}.momentum", group.name, bank.name);
    for (size_t i = 0; i < bank.members.size(); ++i) {
      const auto at = [&](const std::string& part) { return tensors.at(name + part)[int64_t(i)]; };
      result[kind_of(state.store.specs[size_t(bank.members[i])].role)].push_back(
          tensors.count(name) > 0 ? at("")
                                  : dequantize_momentum_reference({at("_codes"), at("_scales")}));
    }
  }
  if (result.empty()) fail(ErrorCode::usage, "nothing in this run is trained by Muon");
  return result;
}

double norm_of_all(const at::Tensor& x) { return at::linalg_vector_norm(x).item<double>(); }

// The least value, 1 % quantile, median and largest value.
std::string quantiles(std::vector<double> values) {
  std::ranges::sort(values);
  const auto at = [&](double q) { return values[size_t(q * double(values.size() - 1))]; };
  return fmt::format("{:>8.4f} {:>8.4f} {:>8.4f} {:>8.4f}", at(0), at(0.01), at(0.5), at(1));
}

void append(std::vector<double>& values, const at::Tensor& tensor) {
  const at::Tensor flat = tensor.to(at::kDouble).contiguous();
  values.insert(values.end(), flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel());
}

// One line that compares results [rows, cols] with their exact factors.
void print_setting(const std::string& setting, const std::string& way,
                   const std::vector<at::Tensor>& results, const std::vector<at::Tensor>& exact) {
  std::vector<double> errors, values;
  double renormalised = 0, share = 0;
  for (size_t i = 0; i < results.size(); ++i) {
    const at::Tensor own = results[i].to(at::kDouble);
    const double ideal = norm_of_all(exact[i]), norm = norm_of_all(own);
    errors.push_back(norm_of_all(own - exact[i]) / ideal);
    renormalised += norm_of_all(own * (ideal / norm) - exact[i]) / ideal;
    share += norm / ideal;
    append(values, at::linalg_svdvals(own));
  }
  double mean = 0;
  for (const double error : errors) mean += error;
  const auto count = double(results.size());
  fmt::print("{:<24} {:<8} {:>7.4f} {:>7.4f} {:>7.4f}  {} {:>7.3f} {:>7.4f}\n", setting, way,
             mean / count, *std::ranges::min_element(errors), *std::ranges::max_element(errors),
             quantiles(values), share / count, renormalised / count);
}

void print_kind(const std::string& kind, const std::vector<at::Tensor>& momentum) {
  std::vector<at::Tensor> exact, rounded;
  std::vector<double> values;
  for (const at::Tensor& m : momentum) {
    const auto [u, s, v] = at::linalg_svd(m.to(at::kDouble), false);
    exact.push_back(at::mm(u, v));
    append(values, s / norm_of_all(s));
    rounded.push_back(dequantize_momentum_reference(quantize_momentum_reference(m)));
  }
  fmt::print("\n{}: {} of {} x {}, singular values over the norm  {}\n", kind, momentum.size(),
             momentum[0].size(0), momentum[0].size(1), quantiles(values));
  fmt::print("{:<24} {:<8} {:>7} {:>7} {:>7}  {:>8} {:>8} {:>8} {:>8} {:>7} {:>7}\n", "setting",
             "way", "error", "least", "most", "s min", "s 1 %", "s 50 %", "s max", "norm",
             "renorm");
  for (const char* coefficients : {"jordan", "you", "polar-express"}) {
    for (const char* normalisation : {"frobenius", "s8"}) {
      const NewtonSchulz settings =
          newton_schulz_settings({.coefficients = coefficients, .normalisation = normalisation});
      const std::string setting = fmt::format("{}, {}", coefficients, normalisation);
      std::vector<at::Tensor> fp32;
      for (const at::Tensor& m : momentum) {
        fp32.push_back(newton_schulz_reference(m, settings, at::kFloat));
      }
      print_setting(setting, "fp32", fp32, exact);
      print_setting(setting, "trained", newton_schulz(at::stack(momentum), settings).unbind(0),
                    exact);
      print_setting(setting, "8-bit", newton_schulz(at::stack(rounded), settings).unbind(0), exact);
    }
  }
}

void run(const std::string& folder) {
  const at::NoGradGuard no_grad;
  const auto state = state_of(folder);
  fmt::print("{}: step {}, {}{}\n", folder, state->step, isa_name(active_isa()),
             has_avx512_bf16() ? " with bf16 products" : "");
  for (const auto& [kind, momentum] : momentum_by_kind(*state)) print_kind(kind, momentum);
}

}  // namespace
}  // namespace osp

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: polar_error_microbench CHECKPOINT\n");
    return 2;
  }
  try {
    osp::prepare_tensor_library();
    osp::run(argv[1]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "polar_error_microbench: {}\n", error.what());
    return 1;
  }
  return 0;
}
