#include "osp/ptq/quantize_block.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/timing.h"
#include "osp/ptq/hessian.h"
#include "osp/quant/joined_layers.h"

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
      StatisticsByExpert statistics;
      if (streams_.quantized != nullptr) collect(group.input, statistics);
      quantize_group(group, statistics, seconds_since(start));
    }
    if (streams_.quantized != nullptr) leave(*streams_.quantized, quantized_pass());
    if (streams_.unquantized != nullptr) leave(*streams_.unquantized, unquantized_pass());
  }

 private:
  // Layers that belong to no expert are under kNoExpert.
  using StatisticsByExpert = std::map<int64_t, InputStatistics>;

  PassSettings quantized_pass() const {
    return {settings_.online, settings_.calibration_bits, &replacements_, settings_.grids};
  }
  PassSettings unquantized_pass() const { return {.online = settings_.online}; }

  void collect(TapPoint point, StatisticsByExpert& statistics) {
    const bool of_experts = block_.config.routes(layer_) &&
                            (point == TapPoint::mlp_input || point == TapPoint::mlp_product);
    streams_.quantized->for_each_batch([&](int64_t first, int64_t count) {
      const at::Tensor x =
          streams_.quantized->input(block_, layer_, quantized_pass(), point, first, count);
      at::Tensor unquantized;
      if (streams_.unquantized != nullptr) {
        unquantized =
            streams_.unquantized->input(block_, layer_, unquantized_pass(), point, first, count);
      }
      of_experts ? add_by_expert(point, x, first, count, statistics)
                 : statistics[kNoExpert].add(x, unquantized, count);
    });
  }

  // Every expert's rows of x, the input of all experts' layers at the point.
  void add_by_expert(TapPoint point, const at::Tensor& x, int64_t first, int64_t count,
                     StatisticsByExpert& statistics) {
    OSP_CHECK(streams_.unquantized == nullptr, "experts have no inputs without quantization");
    const ExpertRouting routing =
        streams_.quantized->routing(block_, layer_, quantized_pass(), first, count);
    const at::Tensor rows = x.reshape({-1, x.size(-1)});
    for (size_t expert = 0; expert < routing.rows.size(); ++expert) {
      const ExpertRows& own = routing.rows[expert];
      if (own.tokens.numel() == 0) continue;
      const at::Tensor& index = point == TapPoint::mlp_input ? own.tokens : own.places;
      statistics[static_cast<int64_t>(expert)].add(rows.index_select(0, index), {}, count);
    }
  }

  void leave(CalibrationStream& stream, const PassSettings& pass) {
    stream.for_each_batch(
        [&](int64_t first, int64_t count) { stream.finish(block_, layer_, pass, first, count); });
  }

  // The Hessians of the layers of one expert, or of a group without experts.
  struct Hessians {
    int64_t expert = kNoExpert;
    int64_t tokens = 0;  // that reached the expert
    at::Tensor hessian = {}, difference = {};
  };

  static Hessians hessians_of(int64_t expert, const StatisticsByExpert& statistics) {
    const auto found = statistics.find(expert);
    if (found == statistics.end()) return {.expert = expert};
    return {expert, found->second.tokens(), found->second.hessian(), found->second.difference()};
  }

  void quantize_group(const LinearGroup& group, const StatisticsByExpert& statistics,
                      double shared_seconds) {
    std::optional<Hessians> hessians;
    const double share = 1.0 / static_cast<double>(group.parameters.size());
    for (const int64_t parameter : group.parameters) {
      const auto start = Clock::now();
      const int64_t expert = block_.specs[static_cast<size_t>(parameter)].expert;
      if (!hessians || hessians->expert != expert) hessians = hessians_of(expert, statistics);
      quantize_layer(parameter, *hessians, shared_seconds * share + seconds_since(start));
      watcher_.layer_done();
    }
  }

  void quantize_layer(int64_t parameter, const Hessians& hessians, double shared_seconds) {
    const std::string& name = block_.specs[static_cast<size_t>(parameter)].name;
    const at::Tensor& hessian = hessians.hessian;
    const at::Tensor weight = block_.master(parameter);
    const auto start = std::chrono::steady_clock::now();
    LinearReport report;
    report.name = name;
    report.kurtosis_before = report.kurtosis_after = std::numeric_limits<double>::quiet_NaN();
    // Round the weight; to nearest if too few tokens reached its expert for more.
    const bool of_expert = hessians.expert >= 0;
    if (of_expert && streams_.quantized != nullptr) report.expert_tokens = hessians.tokens;
    report.rounded_to_nearest = of_expert && settings_.rounding->needs_calibration() &&
                                hessians.tokens < fewest_expert_tokens(weight.size(1));
    const RoundingRow& rounding = report.rounded_to_nearest ? kRtn : *settings_.rounding;
    OSP_CHECK(hessian.defined() || !rounding.needs_calibration(), "{} needs calibration",
              rounding.name);
    RoundedLayer rounded =
        rounding.round({weight, hessian, hessians.difference,
                        grid_of_layer(settings_.grid, block_, parameter), settings_.gptq, name});
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

int64_t fewest_expert_tokens(int64_t columns) { return std::max<int64_t>(1, columns / 8); }

std::string too_few_tokens_warning(const std::vector<LinearReport>& reports) {
  int64_t few = 0, none = 0, all = 0;
  for (const LinearReport& report : reports) {
    if (report.expert_tokens < 0) continue;
    ++all;
    if (!report.rounded_to_nearest) continue;
    ++few;
    if (report.expert_tokens == 0) ++none;
  }
  if (few == 0) return "";
  return fmt::format(
      "{} of {} layers of experts were rounded to nearest: fewer calibration tokens than an eighth "
      "of their inputs reached their expert ({} layers: none at all); more calibration text "
      "(--windows) reaches more experts",
      few, all, none);
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
