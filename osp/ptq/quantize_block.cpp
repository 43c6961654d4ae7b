#include "osp/ptq/quantize_block.h"

#include <ATen/core/grad_mode.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/timing.h"
#include "osp/ptq/hessian.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;

class BlockQuantizer {
 public:
  BlockQuantizer(const ParameterStore& block, int64_t layer, const WeightSettings& settings,
                 const CalibrationStreams& streams, QuantizedWeights& weights,
                 std::vector<LinearReport>& reports, const BlockWatcher& watcher)
      : block_(block),
        layer_(layer),
        settings_(settings),
        streams_(streams),
        weights_(weights),
        reports_(reports),
        watcher_(watcher) {}

  // For each group of layers: 1. collect the statistics of its input, with the groups before it
  // quantized; 2. quantize its layers, whose new weights the windows meet from then on. Then the
  // windows leave the block.
  void run() {
    for (const LinearGroup& group : linear_groups(block_, layer_)) {
      const auto start = std::chrono::steady_clock::now();
      InputStatistics statistics;
      if (streams_.quantized != nullptr) collect(group.input, statistics);
      quantize_group(group, statistics, seconds_since(start));
    }
    if (streams_.quantized != nullptr) leave(*streams_.quantized, quantized_pass());
    if (streams_.unquantized != nullptr) leave(*streams_.unquantized, unquantized_pass());
  }

 private:
  PassSettings quantized_pass() const {
    return {settings_.online, settings_.calibration_bits, &replacements_, settings_.grids};
  }
  PassSettings unquantized_pass() const { return {.online = settings_.online}; }

  void collect(TapPoint point, InputStatistics& statistics) {
    streams_.quantized->for_each_batch([&](int64_t first, int64_t count) {
      const at::Tensor x =
          streams_.quantized->input(block_, layer_, quantized_pass(), point, first, count);
      at::Tensor unquantized;
      if (streams_.unquantized != nullptr) {
        unquantized =
            streams_.unquantized->input(block_, layer_, unquantized_pass(), point, first, count);
      }
      statistics.add(x, unquantized, count);
    });
  }

  void leave(CalibrationStream& stream, const PassSettings& pass) {
    stream.for_each_batch(
        [&](int64_t first, int64_t count) { stream.finish(block_, layer_, pass, first, count); });
  }

  void quantize_group(const LinearGroup& group, const InputStatistics& statistics,
                      double shared_seconds) {
    at::Tensor hessian, difference;
    const auto start = std::chrono::steady_clock::now();
    if (statistics.sequences() > 0) {
      hessian = statistics.hessian();
      difference = statistics.difference();
    }
    shared_seconds += seconds_since(start);
    for (const int64_t parameter : group.parameters) {
      quantize_layer(parameter, hessian, difference,
                     shared_seconds / static_cast<double>(group.parameters.size()));
      watcher_.layer_done();
    }
  }

  void quantize_layer(int64_t parameter, const at::Tensor& hessian, const at::Tensor& difference,
                      double shared_seconds) {
    const std::string& name = block_.specs[static_cast<size_t>(parameter)].name;
    const at::Tensor weight = block_.master(parameter);
    const auto start = std::chrono::steady_clock::now();
    LinearReport report;
    report.name = name;
    report.kurtosis_before = report.kurtosis_after = std::numeric_limits<double>::quiet_NaN();
    // Round the weight.
    OSP_CHECK(hessian.defined() || !settings_.rounding->needs_calibration(), "{} needs calibration",
              settings_.rounding->name);
    RoundedLayer rounded = settings_.rounding->round(
        {weight, hessian, difference, settings_.grid, settings_.gptq, name});
    report.damping = rounded.damping;
    report.num_attempts = rounded.num_attempts;
    report.num_dead = rounded.num_dead;
    if (report.num_attempts > 1) {
      watcher_.warn(
          fmt::format("{}: the Hessian could not be factorized; damping was raised to {:g}", name,
                      report.damping));
    }
    // Measure what it cost.
    const at::Tensor values = rounded.quantized.dequantized();
    warn_of_lost_rows(name, weight, values);
    report.sqnr_db = signal_to_noise_db(weight, values);
    if (hessian.defined()) report.output_error = relative_output_error(weight, values, hessian);
    report.seconds = shared_seconds + seconds_since(start);
    // From here on the windows meet the quantized weight.
    replacements_[parameter] = values.to(block_.compute(parameter).scalar_type());
    weights_[name] = std::move(rounded.quantized);
    reports_.push_back(std::move(report));
  }

  // Rows with weights of which nothing is left.
  void warn_of_lost_rows(const std::string& name, const at::Tensor& weight,
                         const at::Tensor& values) const {
    const at::Tensor lost = weight.ne(0).any(1).logical_and(values.eq(0).all(1));
    const int64_t count = lost.sum().item<int64_t>();
    if (count == 0) return;
    watcher_.warn(
        fmt::format("{}: {} of {} rows have weights and were rounded to zeros, the first "
                    "is row {}",
                    name, count, weight.size(0), lost.to(at::kLong).argmax().item<int64_t>()));
  }

  const ParameterStore& block_;
  int64_t layer_;
  const WeightSettings& settings_;
  const CalibrationStreams& streams_;
  QuantizedWeights& weights_;
  std::vector<LinearReport>& reports_;
  const BlockWatcher& watcher_;
  Replacements replacements_;
};

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
    const TapPoint input = input_point(spec.role);
    for (LinearGroup& group : groups) {
      if (group.input == input) group.parameters.push_back(static_cast<int64_t>(i));
    }
  }
  return groups;
}

void quantize_block(const ParameterStore& block, int64_t layer, const WeightSettings& settings,
                    const CalibrationStreams& streams, QuantizedWeights& weights,
                    std::vector<LinearReport>& reports, const BlockWatcher& watcher) {
  const at::NoGradGuard no_grad;
  BlockQuantizer(block, layer, settings, streams, weights, reports, watcher).run();
}

void pass_block(const ParameterStore& block, int64_t layer, const WeightSettings& settings,
                const CalibrationStreams& streams, const QuantizedWeights& weights) {
  const at::NoGradGuard no_grad;
  if (streams.quantized == nullptr) return;
  // The quantized weights take the place of the block's own.
  Replacements replacements;
  for (const LinearGroup& group : linear_groups(block, layer)) {
    for (const int64_t parameter : group.parameters) {
      const std::string& name = block.specs[static_cast<size_t>(parameter)].name;
      replacements[parameter] =
          weights.at(name).dequantized().to(block.compute(parameter).scalar_type());
    }
  }
  // Use the same pieces as while quantizing, so that a resumed run computes the same bits.
  const auto take = [&](CalibrationStream& stream, const PassSettings& pass) {
    stream.for_each_batch([&](int64_t first, int64_t count) {
      for (const LinearGroup& group : linear_groups(block, layer)) {
        stream.input(block, layer, pass, group.input, first, count);
      }
      stream.finish(block, layer, pass, first, count);
    });
  };
  take(*streams.quantized,
       {settings.online, settings.calibration_bits, &replacements, settings.grids});
  if (streams.unquantized != nullptr) take(*streams.unquantized, {.online = settings.online});
}

}  // namespace osp
