#include "osp/ptq/quantize_model.h"

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/memory.h"
#include "osp/base/output.h"
#include "osp/base/sha256.h"
#include "osp/base/timing.h"
#include "osp/ops/hadamard_matrix.h"
#include "osp/ptq/quantize_report.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/ptq/quantized_model_tensors.h"
#include "osp/quant/activation_scales.h"
#include "osp/quant/float_grid.h"
#include "osp/quant/quantized_linear.h"

namespace osp {
namespace {

Json settings_json(const QuantizeRequest& request, const QuantizedModelInfo& info,
                   const WeightSettings& weights, const Calibration& calibration) {
  Json json = quantization_info_json(info);
  json["seed"] = request.seed;
  json["tables"] = table_type_name(request.tables);
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

// SHA-256 of all parameters in fp32, part by part.
std::string weights_sha256(const ModelSource& source) {
  Sha256 hash;
  for (int64_t layer = kNoLayer; layer < source.config().layers; ++layer) {
    for (const Bank& bank : source.read(layer).banks) {
      const at::Tensor values = bank.master.contiguous();
      hash.update(values.const_data_ptr(), values.nbytes());
    }
  }
  return hash.hex();
}

// Everything that stored parts depend on, so that a run is resumed with the same settings only.
Json fingerprint_json(const ModelSource& source, const std::string& model_dir,
                      const QuantizeRequest& request, Json settings) {
  settings["request"] = request_json(request);
  settings["model"] = model_dir;
  settings["weights_sha256"] = weights_sha256(source);
  // Parts of a version that gave every layer a constant of its own do not go with those of this.
  if (request.bits.weights.kind == NumberKind::nvfp4) settings["joined_constants"] = true;
  return settings;
}

constexpr size_t kMaxReportBytes = size_t{1} << 30;

std::string report_path(const QuantizeRequest& request) { return request.out + "/quantize.json"; }

// True if request.out holds the whole result of this request already: a call that was stopped
// later, while the model was measured, is resumed without quantizing again.
bool is_finished(const QuantizeRequest& request, const std::string& model_dir) {
  const std::string path = report_path(request);
  if (!path_exists(path) || !is_quantized_model_dir(request.out)) return false;
  const Json report = read_json_file(path, kMaxReportBytes);
  return report.is_object() && report.contains("request") && report.contains("model") &&
         report["request"] == request_json(request) && report["model"] == model_dir;
}

// Options of integer grids that a floating-point format does not have.
void check_float_options(const QuantizeRequest& request) {
  const BitWidths& bits = request.bits;
  const auto refuse = [&](const std::string& option, const std::string& reason) {
    fail(ErrorCode::usage, "--bits {} with {}: {}", bits.text(), option, reason);
  };
  if (bits.weights.is_float()) {
    const std::string name = bits.weights.text();
    const int64_t block = block_size(bits.weights.kind);
    const TransformRow* transform = request.method.transform;
    if (request.weight_scales == "mse" && transform != nullptr && transform->clips_weights) {
      refuse("--weight-scales mse", std::string(transform->name) +
                                        " clips the weights itself, so that their scales are not "
                                        "searched; leave the option out");
    }
    if (request.group > 0) {
      refuse("--group", block > 0
                            ? fmt::format("a scale of {} belongs to {} columns, no more and no "
                                          "less; leave out --group",
                                          name, block)
                            : fmt::format("{} weights have one scale per output channel; leave "
                                          "out --group",
                                          name));
    }
    if (request.asymmetric) {
      refuse("--asymmetric", name +
                                 " numbers lie on both sides of 0 and have no zero point; leave "
                                 "out --asymmetric");
    }
  }
  if (bits.activations.is_float()) {
    const std::string name = bits.activations.text();
    if (request.clips.activations != 1.0) {
      refuse("--activation-clip", name +
                                      " scales follow from the largest number alone; leave out "
                                      "--activation-clip");
    }
    if (request.groups.any()) {
      refuse("--activation-group or --down-group",
             "the format " + name + " says which numbers share a scale; leave the groups out");
    }
    if (request.activations == ActivationMode::after_norm) {
      refuse("--activation-scales after-norm",
             "that constant is for integers of a Gaussian; use per-token or per-tensor");
    }
    if (request.activations == ActivationMode::per_tensor &&
        bits.activations.kind == NumberKind::mxfp4) {
      refuse("--activation-scales per-tensor",
             "mxfp4 has scales of blocks alone and no constant of a tensor; use per-token");
    }
  }
  if (bits.kv_cache.is_float() && request.clips.cache != 1.0) {
    refuse("--cache-clip", bits.kv_cache.text() +
                               " scales follow from the largest number alone; "
                               "leave out --cache-clip");
  }
}

// Groups and offsets that contradict each other or would do nothing.
void check_activation_options(const QuantizeRequest& request) {
  const bool has_offsets = request.mean_offset != MeanOffset::none;
  if (!request.bits.quantizes_activations() && (request.groups.any() || has_offsets)) {
    fail(ErrorCode::usage,
         "--bits {}: activations keep 16 bits, so --activation-group, --down-group and "
         "--mean-offset would do nothing; leave them out or give activations fewer bits",
         request.bits.text());
  }
  const bool per_token = request.activations == ActivationMode::per_token;
  if (!per_token &&
      (request.groups.inputs > 0 ||
       (request.groups.down > 0 && request.activations == ActivationMode::per_tensor))) {
    fail(ErrorCode::usage,
         "--activation-scales {}: one constant has no groups; leave out --activation-group and "
         "--down-group, or use --activation-scales per-token",
         activation_mode_name(request.activations));
  }
  if (has_offsets && request.activations == ActivationMode::after_norm) {
    fail(ErrorCode::usage,
         "--activation-scales after-norm with --mean-offset: that constant is for rows of one mean "
         "square, which rows less their mean do not have; use per-token or per-tensor");
  }
}

}  // namespace

void check_request(const QuantizeRequest& request) {
  if (!request.bits.quantizes_weights()) {
    fail(ErrorCode::usage,
         "--bits {}: the weights would keep 16 bits; `osp eval --bits` shows what quantized "
         "activations and caches alone cost",
         request.bits.text());
  }
  check_float_options(request);
  check_activation_options(request);
  const bool calibrated_scales_wanted = request.activations == ActivationMode::per_tensor;
  const bool offsets_wanted = request.mean_offset != MeanOffset::none;
  if (request.calibration.empty() &&
      (request.method.needs_calibration() || calibrated_scales_wanted || offsets_wanted)) {
    fail(ErrorCode::usage, "--method {}{} needs --calibration: token shards or a text",
         request.method.name,
         calibrated_scales_wanted ? " with --activation-scales per-tensor"
         : offsets_wanted         ? " with --mean-offset " + mean_offset_name(request.mean_offset)
                                  : "");
  }
}

void check_method_serves(const QuantizeRequest& request, const ModelConfig& config) {
  const TransformRow* transform = request.method.transform;
  if (transform != nullptr && transform->check_serves != nullptr) {
    transform->check_serves(config, request);
  }
  if (config.has_experts() &&
      request.method.rounding->hessian == HessianKind::quantized_and_difference) {
    fail(ErrorCode::unsupported,
         "{} corrects for the difference between a layer's inputs in the quantized and in the "
         "unquantized model, and these may send a token to different experts: use gptq",
         request.method.rounding->name);
  }
  for (const ParameterSpec& spec : parameter_specs(config)) {
    if (spec.kind == ParameterKind::matrix) check_group(request.group, spec.shape[1], spec.name);
  }
  check_float_blocks(request.bits, config);
  if (request.bits.turns_keys()) check_hadamard_size(config.head_size, "head size");
  check_activation_groups(request.groups, config);
  if (request.bits.quantizes_activations() && request.activations == ActivationMode::after_norm) {
    check_norm_scales(config);
  }
}

QuantizeOutcome quantize_model(const ModelSource& source, const std::string& model_dir,
                               const QuantizeRequest& given) {
  // 1. Refuse what cannot be done before any work, and take over what was done before.
  QuantizeRequest request = given;
  request.out = resolved_output(given.out);  // the folder of parts stands beside it
  const ModelConfig& config = source.config();
  check_request(request);
  check_method_serves(request, config);
  if (request.resume && is_finished(request, model_dir)) {
    return {read_json_file(report_path(request), kMaxReportBytes), config.layers};
  }
  check_output_dir(request.out);
  const auto stage = [&](const std::string& text) {
    if (request.stage) request.stage(text);
  };
  // 2. Read the calibration windows.
  Calibration calibration;
  if (!request.calibration.empty()) {
    stage("reading calibration text");
    calibration =
        read_calibration(request.calibration, model_dir, config.context, config.vocabulary,
                         {.windows = request.windows,
                          .length = request.length,
                          .seed = request.seed,
                          .reference_starts = request.profile == Profile::osp_paper});
    if (!calibration.warning.empty() && request.warn) request.warn(calibration.warning);
  }
  // 3. Open the folder of parts; a run to be resumed must have had the same settings.
  BlockByBlockOptions options;
  options.weights = weight_settings(request.method, request.profile, request.bits, request.group,
                                    !request.asymmetric);
  if (request.bits.weights.is_float()) {
    options.weights.grid.clipping_search = request.weight_scales == "mse";
  }
  QuantizedModelInfo info = {.bits = request.bits,
                             .grid = options.weights.grid,
                             .clips = request.clips,
                             .groups = request.groups,
                             .mean_offset = request.mean_offset,
                             .tables = request.tables,
                             .method = request.method.name,
                             .profile = profile_name(request.profile),
                             .rounded_before = source.rounded_before()};
  const std::string work = request.out + ".work";
  const PartFolder parts(
      work,
      fingerprint_json(source, model_dir, request,
                       settings_json(request, info, options.weights, calibration)),
      request.resume);
  // 4. Prepare the transform: rotations are drawn, or learned, or were learned before; all are
  // checked.
  if (request.method.transform != nullptr) {
    stage("preparing the transform: " + request.method.name);
    options.transform = request.method.transform->make(
        {source, request, options.weights.grid, calibration.windows_NT, &parts});
  }
  info.online = options.transform.online;
  const Json settings = settings_json(request, info, options.weights, calibration);
  options.activations = request.activations;
  options.activation_bits = request.bits.activations;
  options.weights.grids = {.clips = request.clips, .groups = request.groups};
  options.mean_offset = request.mean_offset;
  options.tables = request.tables;
  options.bf16 = request.bf16();
  options.space = {.memory_bytes = static_cast<int64_t>(request.memory_gib * 1073741824.0),
                   .folder = work};
  if (request.progress) {
    options.progress = [&request](int64_t done, int64_t total, double seconds_left) {
      request.progress("layers", done, total, seconds_left);
    };
  }
  if (request.warn) options.warn = request.warn;
  options.stop = request.stop;
  // 5. Quantize block by block.
  stage(fmt::format("quantizing {} blocks: {}", config.layers, request.method.name));
  const BlockByBlockResult result =
      quantize_block_by_block(source, calibration.windows_NT, options, parts);
  info.scales = result.scales;
  // 6. Report, and join the parts to a model dir.
  QuantizeOutcome outcome{quantize_report_json(result.reports), result.num_resumed};
  outcome.report["settings"] = settings;
  outcome.report["settings"]["static_scales"] = activation_scales_json(info.scales);
  if (!options.transform.learning.is_null()) {
    outcome.report["learning"] = options.transform.learning;
  }
  outcome.report["totals"]["wall_seconds"] = result.seconds;
  outcome.report["totals"]["block_seconds"] = result.block_seconds;
  outcome.report["totals"]["peak_memory_bytes"] = peak_memory_bytes();
  outcome.report["model"] = model_dir;
  outcome.report["request"] = request_json(request);
  save_quantized_model_dir(parts, result.config, info, outcome.report, model_dir, request.out);
  remove_tree(work);
  return outcome;
}

}  // namespace osp
