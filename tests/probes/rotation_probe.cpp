// Rotates and scales models, for tests/python/test_rotations.py.
//
//   rotation_probe fold MODEL OUT SEED
//     Norms folded, R1 and R2 by random Hadamard matrices, written as a model dir: a plain Llama.
//   rotation_probe perplexity MODEL DATA BITS MAX_TOKENS SEED METHOD…
//     One JSON line per method: none, ffn-hadamard, quarot, smoothquant, awq, spinquant,
//     spinquant-kurtosis. Weights are rounded to nearest. Calibration is the beginning of DATA's
//     tokens behind the measured ones.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/eval/perplexity.h"
#include "osp/eval/token_source.h"
#include "osp/model/fuse.h"
#include "osp/model/model_dir.h"
#include "osp/ptq/ffn_hadamard.h"
#include "osp/ptq/quarot.h"
#include "osp/ptq/rotation_check.h"
#include "osp/ptq/spinquant.h"
#include "osp/ptq/test_model.h"
#include "osp/quant/fake_quant.h"

namespace {

constexpr int64_t kCalibrationWindows = 16;
constexpr int64_t kCheckedTokens = 32;

at::Tensor windows_at(const std::vector<int64_t>& tokens, int64_t first, int64_t length) {
  const int64_t available = (static_cast<int64_t>(tokens.size()) - first) / length;
  const int64_t count = std::min(kCalibrationWindows, available);
  OSP_CHECK(count > 0, "no tokens are left for calibration");
  at::Tensor windows = at::empty({count, length}, at::kLong);
  std::copy_n(tokens.begin() + first, count * length, windows.data_ptr<int64_t>());
  return windows;
}

osp::OnlineTransforms check_and_rotate(osp::ParameterStore& store, const osp::RotationPlan& plan,
                                       const at::Tensor& tokens) {
  osp::check_rotations(*osp::source_of(store), plan, tokens);
  osp::rotate_model(store, plan);
  return plan.online();
}

// Applies the method and returns what the forward pass must do.
osp::OnlineTransforms apply(const std::string& method, uint64_t seed, const at::Tensor& windows,
                            osp::ParameterStore& store) {
  const at::Tensor few = windows.narrow(0, 0, 1).narrow(1, 0, kCheckedTokens);
  if (method == "ffn-hadamard") {
    return check_and_rotate(store, osp::ffn_hadamard_plan(store.config), few);
  }
  if (method == "quarot") {
    return check_and_rotate(store, osp::quarot_plan(store.config, {.seed = seed}), few);
  }
  if (method == "smoothquant") {
    osp::smooth_quant_all(store, windows);
  } else if (method == "awq") {
    osp::awq_all(store, windows);
  } else if (method.starts_with("spinquant")) {
    osp::SpinQuantOptions options;
    options.seed = seed;
    if (method == "spinquant-kurtosis") options.objective = osp::SpinObjective::kurtosis;
    const osp::SpinQuantResult result = osp::learn_rotations(store, windows, options);
    fmt::print(stderr, "{}: objective {} -> {}, {} corrections\n", method,
               result.objectives.front(), result.objectives.back(), result.num_corrections);
    return check_and_rotate(store, result.plan, few);
  } else {
    OSP_CHECK(method == "none", "unknown method {}", method);
  }
  return {};
}

void fold(const std::vector<std::string>& arguments) {
  osp::ParameterStore store = osp::fuse(osp::load_model_dir(arguments.at(0)));
  osp::RotationPlan plan = osp::quarot_plan(store.config, {.seed = std::stoull(arguments.at(2))});
  plan.down = false;
  at::Tensor few = at::empty({1, kCheckedTokens}, at::kLong);
  for (int64_t i = 0; i < kCheckedTokens; ++i) few[0][i] = i % store.config.vocabulary;
  check_and_rotate(store, plan, few);
  osp::save_model_dir(store, arguments.at(1), "");
}

void perplexity(const std::vector<std::string>& arguments) {
  const osp::ParameterStore fused = osp::fuse(osp::load_model_dir(arguments.at(0)));
  const osp::TokenSource source = osp::read_token_source(arguments.at(1), arguments.at(0), 0);
  const osp::BitWidths bits = osp::parse_bits(arguments.at(2));
  const int64_t max_tokens = std::stoll(arguments.at(3));
  const at::Tensor windows = windows_at(source.tokens, max_tokens, fused.config.context);
  for (size_t i = 5; i < arguments.size(); ++i) {
    osp::ParameterStore store = fused;
    for (osp::Bank& bank : store.banks) bank.compute = bank.master = bank.master.clone();
    const auto online = apply(arguments[i], std::stoull(arguments.at(4)), windows, store);
    osp::FakeQuantTap tap(store, bits, online);
    osp::PerplexityOptions options;
    options.max_tokens = max_tokens;
    options.tap = &tap;
    const auto result = osp::measure_perplexity(store, source.tokens, options);
    fmt::print("{{\"method\": \"{}\", \"bits\": \"{}\", \"perplexity\": {}, \"tokens\": {}}}\n",
               arguments[i], bits.text(), result.perplexity, result.tokens);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::vector<std::string> arguments(argv + 2, argv + argc);
    if (std::string(argv[1]) == "fold") {
      fold(arguments);
    } else {
      perplexity(arguments);
    }
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 3;
  }
}
