#include "osp/cli/held_memory.h"

#include <algorithm>
#include <map>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/memory.h"
#include "osp/model/model_dir.h"
#include "osp/model/parameters.h"
#include "osp/ptq/quantized_model_dir.h"

namespace osp {
namespace {

constexpr double kMaster = 4, kHalf = 2, kCode = 1;  // bytes of a number

// Numbers of a model.
struct Sizes {
  double all = 0, matrices = 0, outside = 0;
  double largest_block = 0;
  double widest_input = 0;  // of a matrix in a block
};

Sizes sizes_of(const ModelConfig& config) {
  Sizes sizes;
  std::map<int64_t, double> blocks;
  for (const ParameterSpec& spec : parameter_specs(config)) {
    double count = 1;
    for (const int64_t size : spec.shape) count *= static_cast<double>(size);
    sizes.all += count;
    (spec.layer == kNoLayer ? sizes.outside : blocks[spec.layer]) += count;
    if (spec.kind != ParameterKind::matrix) continue;
    sizes.matrices += count;
    sizes.widest_input = std::max(sizes.widest_input, static_cast<double>(spec.shape.back()));
  }
  for (const auto& [layer, count] : blocks) {
    sizes.largest_block = std::max(sizes.largest_block, count);
  }
  return sizes;
}

// The residual stream of the calibration windows between two blocks, which is in memory where
// --memory has room for it; other activations of a block may follow it there.
double calibration_bytes(const ModelConfig& config, const QuantizeRequest& request) {
  if (request.calibration.empty() || !request.method.rounding->needs_calibration()) return 0;
  const auto length = static_cast<double>(std::min(request.length, config.context));
  const double bytes = static_cast<double>(request.windows) * length *
                       static_cast<double>(config.width) * (request.bf16() ? kHalf : kMaster);
  constexpr double kGiB = 1073741824.0;
  return 2 * bytes <= request.memory_gib * kGiB ? bytes : 0;
}

}  // namespace

double plain_model_bytes(const std::string& dir) {
  return kMaster * sizes_of(load_model_config(dir).model).all;
}

double evaluation_bytes(const EvaluatedWeights& evaluated) {
  if (is_quantized_model_dir(evaluated.dir)) {
    const QuantizedConfig config = load_quantized_config(evaluated.dir);
    const Sizes sizes = sizes_of(config.model);
    if (evaluated.simulated) return kMaster * sizes.all + kCode * sizes.matrices;
    // On the integer engine; panels are mapped and take nothing for sure.
    if (!path_exists(evaluated.dir + "/model.safetensors")) return 0;
    return sizes.matrices * (config.info.bits.weights.bits <= 4 ? kCode / 2 : kCode) +
           kHalf * sizes.outside;
  }
  const Sizes sizes = sizes_of(load_model_config(evaluated.dir).model);
  const bool rounds = std::ranges::any_of(
      evaluated.widths, [](const BitWidths& bits) { return bits.quantizes_weights(); });
  const double compute = evaluated.bf16 ? kHalf : kMaster;
  return kMaster * sizes.all + (evaluated.bf16 ? kHalf * sizes.all : 0) +
         (rounds ? compute * sizes.matrices : 0);
}

double quantization_bytes(const ModelConfig& config, const QuantizeRequest& request,
                          bool measured) {
  const Sizes sizes = sizes_of(config);
  const double each = kMaster + (request.bf16() ? kHalf : 0);
  // A block with its codes, and the products of a layer's inputs in fp32 and, being solved, fp64.
  double block = (each + kCode) * sizes.largest_block;
  if (request.method.rounding->needs_calibration()) {
    block += (kMaster + 2 * kMaster) * sizes.widest_input * sizes.widest_input;
  }
  double held = std::max(each * sizes.outside, block) + calibration_bytes(config, request);
  // SpinQuant learns on the whole model.
  const TransformRow* transform = request.method.transform;
  if (transform != nullptr && transform->name.starts_with("spinquant")) {
    held = std::max(held, kMaster * sizes.all);
  }
  if (!measured) return held;
  return kMaster * sizes.all + std::max(held, kMaster * sizes.all + kCode * sizes.matrices);
}

void check_held_memory(double bytes, const std::string& work, const std::string& first_advice,
                       Console& console) {
  const double needed = bytes + static_cast<double>(resident_memory_bytes());
  const std::string advice = first_advice + "use a smaller model, or a machine with more memory";
  require_memory(needed, work, advice, "at least");
  const auto free = static_cast<double>(free_memory_bytes());
  if (bytes > free) {
    console.warn("{} needs at least {} of memory, and {} are free now: {}", work,
                 format_bytes(needed), format_bytes(free), advice);
  }
}

}  // namespace osp
