#include "osp/ptq/quantize_model.h"

#include <ATen/ops/arange.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/memory.h"
#include "osp/ptq/quantize_report.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/ptq/rotation_check.h"
#include "osp/ptq/spinquant.h"

namespace osp {
namespace {

constexpr int64_t kCheckTokens = 32;

// A few tokens on which logits are compared before and after a rotation: of the calibration text,
// or else spread over the vocabulary.
at::Tensor check_tokens(const ModelConfig& config, const at::Tensor& windows_NT) {
  if (windows_NT.defined()) {
    return windows_NT.narrow(0, 0, 1).narrow(1, 0, std::min(kCheckTokens, windows_NT.size(1)));
  }
  const int64_t count = std::min(kCheckTokens, config.context);
  return at::arange(count, at::kLong)
      .mul_(std::max<int64_t>(1, config.vocabulary / count))
      .remainder_(config.vocabulary)
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
                          SpinObjective objective, const at::Tensor& windows_NT, Json& report) {
  SpinQuantOptions options;
  options.down_block = request.down_block;
  options.steps = request.spin.steps;
  options.batch = request.spin.batch;
  const int64_t length = request.spin.length > 0 ? std::min(request.spin.length, windows_NT.size(1))
                                                 : windows_NT.size(1);
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
  SpinQuantResult result = learn_rotations(store, windows_NT.narrow(1, 0, length), options);
  report = {{"steps", options.steps},
            {"windows_per_step", options.batch},
            {"window", length},
            {"objective", objective == SpinObjective::kurtosis ? "kurtosis" : "cross-entropy"},
            {"objectives", result.objectives}};
  RotationPlan plan = std::move(result.plan);
  if (plan.residual && plan.residual->matrix.defined()) {
    plan.residual->matrix = polished(plan.residual->matrix);
  }
  for (Rotation& rotation : plan.values) {
    if (rotation.matrix.defined()) rotation.matrix = polished(rotation.matrix);
  }
  return plan;
}

PartTransform rotating_checked(const ModelSource& source, const RotationPlan& plan,
                               const at::Tensor& windows_NT) {
  check_rotations(source, plan, check_tokens(source.config(), windows_NT));
  return rotating(plan);
}

// What the method does to the weights before they are rounded.
PartTransform transform_of(const ModelSource& source, const QuantizeRequest& request,
                           const WeightGrid& grid, const at::Tensor& windows_NT, Json& report) {
  const auto learned = [&](SpinObjective objective) {
    return rotating_checked(
        source, learned_plan(source.read(kWhole), request, objective, windows_NT, report),
        windows_NT);
  };
  switch (request.method.transform) {
    case Transform::none:
      return {};
    case Transform::ffn_hadamard:
      return rotating_checked(source, ffn_hadamard_plan(source.config(), request.down_block),
                              windows_NT);
    case Transform::quarot:
      return rotating_checked(
          source,
          quarot_plan(source.config(), {.seed = request.seed, .down_block = request.down_block}),
          windows_NT);
    case Transform::spinquant:
      return learned(SpinObjective::end_to_end);
    case Transform::spinquant_kurtosis:
      return learned(SpinObjective::kurtosis);
    case Transform::smoothquant:
      return smoothing(source.config());
    case Transform::awq:
      return scaling_by_awq(grid);
  }
  OSP_CHECK(false, "unknown transform");
}

Json settings_json(const QuantizeRequest& request, const QuantizedModelInfo& info,
                   const WeightSettings& weights, const Calibration& calibration) {
  Json json = quantization_info_json(info);
  json["seed"] = request.seed;
  json["act_order"] = weights.gptq.act_order;
  json["calibration_bits"] = weights.calibration_bits.text();
  json["calibration_type"] = request.bf16() ? "bf16" : "fp32";
  json["calibration"] = calibration.source.empty() ? Json(nullptr) : Json(calibration.source);
  if (calibration.windows_NT.defined()) {
    json["calibration_tokens"] = calibration.num_tokens;
    json["samples"] = calibration.windows_NT.size(0);
    json["length"] = calibration.windows_NT.size(1);
  }
  return json;
}

// Everything that parts depend on. Numbers of the first block's weights stand for the model's.
Json fingerprint_json(const ModelSource& source, const std::string& model_dir, Json settings) {
  double sum = 0.0;
  for (const Bank& bank : source.read(Part(0)).banks) {
    sum += bank.master.abs().sum(at::kDouble).item<double>();
  }
  settings["model"] = model_dir;
  settings["sum_of_weights"] = sum;
  return settings;
}

}  // namespace

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

QuantizeOutcome quantize_model(const ModelSource& source, const std::string& model_dir,
                               const QuantizeRequest& request) {
  check_request(request);
  check_output_dir(request.out);
  const auto stage = [&](const std::string& text) {
    if (request.stage) request.stage(text);
  };
  const ModelConfig& config = source.config();
  Calibration calibration;
  if (!request.calibration.empty()) {
    stage("reading calibration text");
    calibration =
        read_calibration(request.calibration, model_dir, config.context, config.vocabulary,
                         {.windows = request.windows,
                          .length = request.length,
                          .seed = request.seed,
                          .reference_starts = request.profile == Profile::osp_paper});
  }
  PipelineOptions pipeline;
  pipeline.weights = weight_settings(request.method, request.profile, request.bits, request.group,
                                     !request.asymmetric);
  if (request.method.transform != Transform::none) {
    stage("preparing the transform: " + request.method.name);
  }
  Json learning;  // of rotations
  pipeline.transform =
      transform_of(source, request, pipeline.weights.grid, calibration.windows_NT, learning);
  pipeline.activations = request.activations;
  pipeline.activation_bits = request.bits.activations;
  pipeline.bf16 = request.bf16();
  QuantizedModelInfo info = {.bits = request.bits,
                             .grid = pipeline.weights.grid,
                             .online = pipeline.transform.online,
                             .clips = request.clips,
                             .method = request.method.name,
                             .profile = profile_name(request.profile)};
  const Json settings = settings_json(request, info, pipeline.weights, calibration);
  const std::string work = request.out + ".work";
  const PartFolder parts(work, fingerprint_json(source, model_dir, settings), request.resume);
  pipeline.space = {.memory_bytes = static_cast<int64_t>(request.memory_gib * 1073741824.0),
                    .folder = work};
  if (request.progress) {
    pipeline.progress = [&request](int64_t done, int64_t total, double seconds_left) {
      request.progress("layers", done, total, seconds_left);
    };
  }
  if (request.warn) pipeline.warn = request.warn;
  pipeline.stop = request.stop;
  stage(fmt::format("quantizing {} blocks: {}", config.layers, request.method.name));
  const PipelineResult result = quantize_parts(source, calibration.windows_NT, pipeline, parts);
  info.scales = result.scales;
  QuantizeOutcome outcome{quantize_report_json(result.reports), result.num_resumed};
  outcome.report["settings"] = settings;
  outcome.report["settings"]["static_scales"] = activation_scales_json(info.scales);
  if (!learning.is_null()) outcome.report["learning"] = learning;
  outcome.report["totals"]["wall_seconds"] = result.seconds;
  outcome.report["totals"]["block_seconds"] = result.block_seconds;
  outcome.report["totals"]["peak_memory_bytes"] = peak_memory_bytes();
  outcome.report["model"] = model_dir;
  save_quantized_model_dir(parts, result.config, info, outcome.report, model_dir, request.out);
  remove_tree(work);
  return outcome;
}

}  // namespace osp
