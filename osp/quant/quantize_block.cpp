#include "osp/quant/quantize_block.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "osp/base/error.h"
#include "osp/model/transformer.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/hessian.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;
using Replacements = std::map<int64_t, at::Tensor>;  // weights by parameter

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Thrown by BlockTap to leave a pass whose rest is not needed; caught in this file only.
struct PassEnded {};

// Online transforms and calibration quantizers, weights that were replaced so far, and a watcher
// of the inputs of linear layers.
class BlockTap : public Tap {
 public:
  BlockTap(const ParameterStore& store, const WeightSettings& settings,
           const Replacements* replacements)
      : inner_(store,
               {16, settings.calibration_bits.activations, settings.calibration_bits.kv_cache},
               settings.online),
        replacements_(replacements) {}

  // Called with each input as the linear layers get it.
  std::function<void(TapPoint, const at::Tensor&)> on_input;
  std::optional<TapPoint> stop_at;  // the pass ends after this input was seen

  bool wants(TapPoint point, int64_t layer) const override {
    return is_input(point) || inner_.wants(point, layer);
  }
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override {
    const at::Tensor y = inner_.at(point, layer, x);
    if (!is_input(point)) return y;
    if (on_input) on_input(point, y);
    if (stop_at == point) throw PassEnded();
    return y;
  }
  bool wants_weights() const override { return replacements_ != nullptr; }
  at::Tensor weight(int64_t parameter, const at::Tensor& w) override {
    const auto found = replacements_->find(parameter);
    return found == replacements_->end() ? w : found->second;
  }

 private:
  static bool is_input(TapPoint point) {
    return point == TapPoint::attention_input || point == TapPoint::attention_output ||
           point == TapPoint::mlp_input || point == TapPoint::mlp_product;
  }

  FakeQuantTap inner_;
  const Replacements* replacements_;
};

TapPoint input_of(const ParameterSpec& spec) {
  const auto contains = [&](const char* part) { return spec.name.find(part) != std::string::npos; };
  if (contains("self_attn.o_proj") || contains("self_attn.out_proj")) {
    return TapPoint::attention_output;
  }
  if (contains("self_attn.")) return TapPoint::attention_input;
  if (contains("down_proj") || contains("fc2")) return TapPoint::mlp_product;
  return TapPoint::mlp_input;
}

// Everything about one block that the two ways through it share.
class BlockQuantizer {
 public:
  BlockQuantizer(const ParameterStore& store, int64_t layer, const WeightSettings& settings,
                 const CalibrationStreams& streams, QuantizedWeights& weights,
                 std::vector<LinearReport>& reports,
                 const std::function<void(const std::string&)>& warn)
      : store_(store),
        layer_(layer),
        settings_(settings),
        streams_(streams),
        weights_(weights),
        reports_(reports),
        warn_(warn),
        groups_(linear_groups(store, layer)) {}

  void run() {
    if (streams_.quantized == nullptr) {
      for (const LinearGroup& group : groups_) quantize_group(group, nullptr, 0.0);
    } else if (streams_.original == nullptr && fits_memory()) {
      run_in_stages();
    } else {
      run_in_batches();
    }
  }

 private:
  // Whether all activations of one pass over all windows do: residual stream twice, norm, q k v,
  // their rotated copies, attention output; gate, up and their product.
  bool fits_memory() const {
    const ModelConfig& c = store_.config;
    const int64_t tokens = streams_.quantized->windows() * streams_.quantized->length();
    const int64_t attention = 4 * c.heads * c.head_size + 3 * c.kv_heads * c.head_size;
    const int64_t numbers = 4 * c.width + std::max(attention, 4 * c.inner);
    return tokens * numbers * 4 <= settings_.memory_limit_bytes;
  }

  void run_in_stages() {
    const int64_t count = streams_.quantized->windows();
    BlockTap tap(store_, settings_, &replacements_);
    auto start = Clock::now();
    tap.on_input = [&](TapPoint point, const at::Tensor& x) {
      for (const LinearGroup& group : groups_) {
        if (group.input != point) continue;
        InputStatistics statistics;
        statistics.add(x, {}, count);
        quantize_group(group, &statistics, seconds_since(start));
      }
      start = Clock::now();
    };
    const at::Tensor x =
        forward_block(store_, layer_, streams_.quantized->get(0, count), watched_by(tap));
    streams_.quantized->put(0, x);
  }

  void run_in_batches() {
    const bool corrected = streams_.original != nullptr;
    for (const LinearGroup& group : groups_) {
      const auto start = Clock::now();
      InputStatistics statistics;
      for_each_batch([&](int64_t first, int64_t count) {
        const at::Tensor x = input(*streams_.quantized, group.input, &replacements_, first, count);
        statistics.add(x,
                       corrected ? input(*streams_.original, group.input, nullptr, first, count)
                                 : at::Tensor(),
                       count);
      });
      quantize_group(group, &statistics, seconds_since(start));
    }
    pass_block(store_, layer_, settings_, streams_, weights_);
  }

  // What the group's layers get for some windows.
  at::Tensor input(const CalibrationStore& stream, TapPoint point, const Replacements* replacements,
                   int64_t first, int64_t count) const {
    WeightSettings plain = settings_;
    if (replacements == nullptr) plain.calibration_bits = {};  // the original model
    BlockTap tap(store_, plain, replacements);
    at::Tensor seen;
    tap.on_input = [&](TapPoint at_point, const at::Tensor& x) {
      if (at_point == point) seen = x;
    };
    tap.stop_at = point;
    try {
      forward_block(store_, layer_, stream.get(first, count), watched_by(tap));
    } catch (const PassEnded&) {
    }
    OSP_CHECK(seen.defined(), "block {} has no such input", layer_);
    return seen;
  }

  template <class Visit>
  void for_each_batch(const Visit& visit) const {
    const int64_t windows = streams_.quantized->windows();
    const int64_t batch =
        std::max<int64_t>(1, settings_.batch_tokens / streams_.quantized->length());
    for (int64_t first = 0; first < windows; first += batch) {
      visit(first, std::min(batch, windows - first));
    }
  }

  void quantize_group(const LinearGroup& group, const InputStatistics* statistics,
                      double shared_seconds) {
    at::Tensor hessian, difference;
    const auto start = Clock::now();
    if (statistics != nullptr) {
      hessian = statistics->hessian();
      difference = statistics->difference();
    }
    shared_seconds += seconds_since(start);
    for (const int64_t parameter : group.parameters) {
      quantize_layer(parameter, hessian, difference,
                     shared_seconds / static_cast<double>(group.parameters.size()));
    }
  }

  void quantize_layer(int64_t parameter, const at::Tensor& hessian, const at::Tensor& difference,
                      double shared_seconds) {
    const std::string& name = store_.specs[static_cast<size_t>(parameter)].name;
    const at::Tensor weight = store_.master(parameter);
    const auto start = Clock::now();
    LinearReport report;
    report.name = name;
    report.kurtosis_before = report.kurtosis_after = std::numeric_limits<double>::quiet_NaN();
    QuantizedLinear quantized;
    if (settings_.method == WeightMethod::gptq) {
      OSP_CHECK(hessian.defined(), "GPTQ needs calibration");
      GptqResult result = gptq(weight, hessian, difference, settings_.grid, settings_.gptq, name);
      report.damping = result.damping;
      report.num_attempts = result.num_attempts;
      report.num_dead = result.num_dead;
      quantized = std::move(result.quantized);
      if (report.num_attempts > 1) {
        warn_(fmt::format("{}: the Hessian could not be factorized; damping was raised to {:g}",
                          name, report.damping));
      }
    } else {
      quantized = round_to_nearest(weight, settings_.grid, name);
    }
    const at::Tensor values = quantized.dequantized();
    report.sqnr_db = signal_to_noise_db(weight, values);
    if (hessian.defined()) report.output_error = relative_output_error(weight, values, hessian);
    report.seconds = shared_seconds + seconds_since(start);
    replacements_[parameter] = values.to(store_.compute(parameter).scalar_type());
    weights_[name] = std::move(quantized);
    reports_.push_back(std::move(report));
  }

  const ParameterStore& store_;
  int64_t layer_;
  const WeightSettings& settings_;
  const CalibrationStreams& streams_;
  QuantizedWeights& weights_;
  std::vector<LinearReport>& reports_;
  const std::function<void(const std::string&)>& warn_;
  std::vector<LinearGroup> groups_;
  Replacements replacements_;
};

// Runs a whole stream through the block.
void advance(const ParameterStore& store, int64_t layer, const WeightSettings& settings,
             CalibrationStore& stream, const Replacements* replacements) {
  const int64_t batch = std::max<int64_t>(1, settings.batch_tokens / stream.length());
  for (int64_t first = 0; first < stream.windows(); first += batch) {
    const int64_t count = std::min(batch, stream.windows() - first);
    BlockTap tap(store, settings, replacements);
    stream.put(first, forward_block(store, layer, stream.get(first, count), watched_by(tap)));
  }
}

}  // namespace

ForwardOptions watched_by(Tap& tap) {
  ForwardOptions options;
  options.tap = &tap;
  return options;
}

std::vector<LinearGroup> linear_groups(const ParameterStore& store, int64_t layer) {
  std::vector<LinearGroup> groups = {{TapPoint::attention_input, {}},
                                     {TapPoint::attention_output, {}},
                                     {TapPoint::mlp_input, {}},
                                     {TapPoint::mlp_product, {}}};
  for (size_t i = 0; i < store.specs.size(); ++i) {
    const ParameterSpec& spec = store.specs[i];
    if (spec.kind != ParameterKind::matrix || spec.layer != layer) continue;
    const TapPoint input = input_of(spec);
    for (LinearGroup& group : groups) {
      if (group.input == input) group.parameters.push_back(static_cast<int64_t>(i));
    }
  }
  return groups;
}

void quantize_block(const ParameterStore& store, int64_t layer, const WeightSettings& settings,
                    const CalibrationStreams& streams, QuantizedWeights& weights,
                    std::vector<LinearReport>& reports,
                    const std::function<void(const std::string&)>& warn) {
  const at::NoGradGuard no_grad;
  BlockQuantizer(store, layer, settings, streams, weights, reports, warn).run();
}

void pass_block(const ParameterStore& store, int64_t layer, const WeightSettings& settings,
                const CalibrationStreams& streams, const QuantizedWeights& weights) {
  const at::NoGradGuard no_grad;
  if (streams.quantized == nullptr) return;
  Replacements replacements;
  for (const LinearGroup& group : linear_groups(store, layer)) {
    for (const int64_t parameter : group.parameters) {
      const std::string& name = store.specs[static_cast<size_t>(parameter)].name;
      replacements[parameter] =
          weights.at(name).dequantized().to(store.compute(parameter).scalar_type());
    }
  }
  advance(store, layer, settings, *streams.quantized, &replacements);
  if (streams.original != nullptr) {
    WeightSettings plain = settings;
    plain.calibration_bits = {};
    advance(store, layer, plain, *streams.original, nullptr);
  }
}

}  // namespace osp
