#include "osp/quant/quantize_model.h"

#include <ATen/ops/arange.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "osp/base/error.h"
#include "osp/quant/awq.h"
#include "osp/quant/quantize_report.h"
#include "osp/quant/rotation_check.h"
#include "osp/quant/smooth_quant.h"
#include "osp/quant/spinquant.h"

namespace osp {
namespace {

constexpr int64_t kCheckTokens = 32;

// A store with tensors of its own.
ParameterStore copy_of(const ParameterStore& store) {
  ParameterStore copy = store;
  for (Bank& bank : copy.banks) {
    const bool shared = bank.compute.is_same(bank.master);
    bank.master = bank.master.clone();
    bank.compute = shared ? bank.master : bank.compute.clone();
  }
  return copy;
}

void check_request(const QuantizeRequest& request) {
  if (!request.bits.quantizes_weights()) {
    fail(ErrorCode::usage,
         "--bits {}: the weights would keep 16 bits; `osp eval --bits` shows what quantized "
         "activations and caches alone cost",
         request.bits.text());
  }
  const bool calibrated_scales_wanted = request.activations == ActivationMode::per_tensor;
  if (request.calibration.empty() &&
      (request.method.needs_calibration() || calibrated_scales_wanted)) {
    fail(ErrorCode::usage, "--method {}{} needs --calibration: token shards or a text",
         request.method.name,
         calibrated_scales_wanted ? " with --activation-scales per-tensor" : "");
  }
}

// A few tokens on which logits are compared before and after a rotation: of the calibration text,
// or else spread over the vocabulary.
at::Tensor check_tokens(const ParameterStore& store, const at::Tensor& windows_NT) {
  if (windows_NT.defined()) {
    return windows_NT.narrow(0, 0, 1).narrow(1, 0, std::min(kCheckTokens, windows_NT.size(1)));
  }
  const int64_t count = std::min(kCheckTokens, store.config.context);
  return at::arange(count, at::kLong)
      .mul_(std::max<int64_t>(1, store.config.vocabulary / count))
      .remainder_(store.config.vocabulary)
      .view({1, count});
}

// The nearest orthogonal matrix, for one that is orthogonal but for rounding of the descent: the
// error is squared twice by Q ← Q (3 I − QᵀQ) / 2.
at::Tensor polished(at::Tensor q) {
  for (int i = 0; i < 2; ++i) q = q.mul(1.5).sub(q.matmul(q.t().matmul(q)).mul(0.5));
  return q;
}

// SpinQuant's rotations. Weights that GPTQ will round keep 16 bits while they are learned.
RotationPlan learned_plan(const ParameterStore& store, const QuantizeRequest& request,
                          SpinObjective objective, const at::Tensor& windows_NT) {
  SpinQuantOptions options;
  options.objective = objective;
  options.bits = request.bits;
  if (request.method.weights == WeightMethod::gptq) options.bits.weights = 16;
  options.seed = request.seed;
  if (request.progress) {
    const auto start = std::chrono::steady_clock::now();
    options.progress = [&request, start](int64_t done, int64_t total, double) {
      const double seconds =
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      request.progress("steps", done, total,
                       seconds / static_cast<double>(done) * static_cast<double>(total - done));
    };
  }
  RotationPlan plan = learn_rotations(store, windows_NT, options).plan;
  if (plan.residual && plan.residual->matrix.defined()) {
    plan.residual->matrix = polished(plan.residual->matrix);
  }
  for (Rotation& rotation : plan.values) {
    if (rotation.matrix.defined()) rotation.matrix = polished(rotation.matrix);
  }
  return plan;
}

// Changes the weights and says what the forward pass must do from now on.
OnlineTransforms transform(ParameterStore& store, const QuantizeRequest& request,
                           const WeightGrid& grid, const at::Tensor& windows_NT) {
  RotationPlan plan;
  switch (request.method.transform) {
    case Transform::none:
      return {};
    case Transform::ffn_hadamard:
      plan = ffn_hadamard_plan(store.config);
      break;
    case Transform::quarot:
      plan = quarot_plan(store.config, {.seed = request.seed});
      break;
    case Transform::spinquant:
      plan = learned_plan(store, request, SpinObjective::end_to_end, windows_NT);
      break;
    case Transform::spinquant_kurtosis:
      plan = learned_plan(store, request, SpinObjective::kurtosis, windows_NT);
      break;
    case Transform::smoothquant:
      smooth_quant(store, windows_NT);
      return {};
    case Transform::awq:
      awq(store, windows_NT, {.grid = grid});
      return {};
  }
  return rotate_checked(store, plan, check_tokens(store, windows_NT));
}

ActivationScales static_scales(const ParameterStore& store, const QuantizeRequest& request,
                               const OnlineTransforms& online, const at::Tensor& windows_NT) {
  if (!request.bits.quantizes_activations()) return {};
  switch (request.activations) {
    case ActivationMode::per_token:
      return {};
    case ActivationMode::after_norm:
      return norm_scales(store, request.bits.activations);
    case ActivationMode::per_tensor:
      return calibrated_scales(store, online, windows_NT, request.bits.activations);
  }
  OSP_CHECK(false, "unknown mode");
}

Json settings_json(const QuantizeRequest& request, const QuantizedModelInfo& info,
                   const WeightSettings& weights, const Calibration& calibration) {
  Json json = quantization_info_json(info);
  json["seed"] = request.seed;
  json["act_order"] = weights.gptq.act_order;
  json["calibration_bits"] = weights.calibration_bits.text();
  json["calibration"] = calibration.source.empty() ? Json(nullptr) : Json(calibration.source);
  if (calibration.windows_NT.defined()) {
    json["calibration_tokens"] = calibration.num_tokens;
    json["samples"] = calibration.windows_NT.size(0);
    json["length"] = calibration.windows_NT.size(1);
  }
  return json;
}

// Bits of the weights that cannot be the same by chance: parts of another model are refused.
Json fingerprint_json(const ParameterStore& model, const std::string& model_dir, Json settings) {
  double sum = 0.0;
  for (const Bank& bank : model.banks) sum += bank.master.abs().sum(at::kDouble).item<double>();
  settings["model"] = model_dir;
  settings["sum_of_weights"] = sum;
  return settings;
}

}  // namespace

ActivationMode parse_activation_mode(const std::string& text) {
  if (text == "per-token") return ActivationMode::per_token;
  if (text == "after-norm") return ActivationMode::after_norm;
  if (text == "per-tensor") return ActivationMode::per_tensor;
  fail(ErrorCode::usage, "--activation-scales {}: expected per-token, after-norm or per-tensor",
       text);
}

std::unique_ptr<FakeQuantTap> QuantizeOutcome::make_tap() const {
  return std::make_unique<FakeQuantTap>(
      store, BitWidths{16, info.bits.activations, info.bits.kv_cache}, info.online, info.scales);
}

QuantizeOutcome quantize_model(const ParameterStore& model, const std::string& model_dir,
                               const QuantizeRequest& request) {
  check_request(request);
  const auto stage = [&](const std::string& text) {
    if (request.stage) request.stage(text);
  };
  Calibration calibration;
  if (!request.calibration.empty()) {
    stage("reading calibration text");
    calibration = read_calibration(request.calibration, model_dir, model.config.context,
                                   model.config.vocabulary,
                                   {.samples = request.samples,
                                    .length = request.length,
                                    .seed = request.seed,
                                    .reference_starts = request.profile == Profile::osp_paper});
  }
  const at::Tensor& windows = calibration.windows_NT;
  std::map<std::string, double> before, after;
  if (windows.defined()) before = input_kurtosis(model, {}, windows);

  QuantizeOutcome outcome;
  outcome.store = copy_of(model);
  stage("transforming weights: " + request.method.name);
  PipelineOptions pipeline;
  pipeline.weights = weight_settings(request.method, request.profile, request.bits, request.group,
                                     request.symmetric);
  const OnlineTransforms online = transform(outcome.store, request, pipeline.weights.grid, windows);
  if (windows.defined()) after = input_kurtosis(outcome.store, online, windows);
  pipeline.weights.online = online;
  pipeline.weights.memory_limit_bytes = request.memory_limit_bytes;
  outcome.info = {.bits = request.bits,
                  .grid = pipeline.weights.grid,
                  .online = online,
                  .scales = static_scales(outcome.store, request, online, windows),
                  .method = request.method.name,
                  .profile = request.profile == Profile::best ? "best" : "osp-paper"};
  const Json settings = settings_json(request, outcome.info, pipeline.weights, calibration);
  pipeline.work_dir = request.work_dir;
  pipeline.resume = request.resume;
  if (!request.work_dir.empty()) {
    pipeline.fingerprint = fingerprint_json(model, model_dir, settings);
    pipeline.scratch_dir = request.work_dir;
  }
  if (request.progress) {
    pipeline.progress = [&request](int64_t done, int64_t total, double seconds_left) {
      request.progress("blocks", done, total, seconds_left);
    };
  }
  pipeline.warn = request.warn ? request.warn : [](const std::string&) {};
  PipelineResult result = quantize_weights(outcome.store, windows, pipeline);
  for (LinearReport& report : result.reports) {
    if (!windows.defined()) break;
    report.kurtosis_before = before.at(report.name);
    report.kurtosis_after = after.at(report.name);
  }
  for (const auto& [name, layer] : result.weights) {
    outcome.store.master(outcome.store.find(name)).copy_(layer.dequantized());
  }
  sync_compute(outcome.store);
  outcome.report = quantize_report_json(result.reports);
  outcome.report["settings"] = settings;
  outcome.report["totals"]["wall_seconds"] = result.seconds;
  outcome.weights = std::move(result.weights);
  outcome.num_resumed = result.num_resumed;
  return outcome;
}

}  // namespace osp
