#include "osp/ptq/block_by_block.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <set>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/timing.h"
#include "osp/measure/rows.h"
#include "osp/ptq/quantize_report.h"
#include "osp/ptq/quantized_model_config.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kKurtosisWindows = 8;  // on which kurtosis is measured
constexpr int64_t kScaleWindows = 4;     // on which static scales are found
constexpr int64_t kOffsetWindows = 8;    // over which means are taken

// Measurements of the inputs of one block's linear layers on calibration windows.
struct InputMeasurements {
  std::map<TapPoint, KurtosisMean> kurtosis;
  std::map<TapPoint, std::vector<at::Tensor>> rows;  // of the first windows, for static scales
  std::map<TapPoint, at::Tensor> sums;               // over tokens, fp64 [channels]
  std::map<TapPoint, int64_t> tokens;                // of the sums
};

void add_tokens(InputMeasurements& inputs, TapPoint point, const at::Tensor& x) {
  const at::Tensor rows = x.reshape({-1, x.size(-1)});
  const at::Tensor sum = rows.sum({0}, /*keepdim=*/false, at::kDouble);
  at::Tensor& held = inputs.sums[point];
  held = held.defined() ? held + sum : sum;
  inputs.tokens[point] += rows.size(0);
}

void add_kurtosis(KurtosisMean& mean, const at::Tensor& input) {
  for_each_row_block(input,
                     [&](int64_t, std::span<const float>, std::span<const RowStatistics> rows) {
                       for (const RowStatistics& row : rows) {
                         const double m2 = row.moments.m2;
                         if (m2 > 0.0 || !std::isfinite(m2)) mean.add(excess_kurtosis(row.moments));
                       }
                     });
}

// Estimates the time left by the mean time per layer since the run began or was resumed.
class Progress {
 public:
  Progress(const BlockByBlockOptions& options, int64_t total) : options_(options), total_(total) {}
  void skip(int64_t layers) {
    done_ += layers;
    start_ = Clock::now();
    timed_ = 0;
  }
  void layer_done() {
    ++done_;
    ++timed_;
    if (!options_.progress) return;
    const double spent = seconds_since(start_);
    options_.progress(done_, total_,
                      spent / static_cast<double>(timed_) * static_cast<double>(total_ - done_));
  }

 private:
  const BlockByBlockOptions& options_;
  int64_t total_, done_ = 0, timed_ = 0;
  Clock::time_point start_ = Clock::now();
};

class BlockByBlock {
 public:
  BlockByBlock(const ModelSource& source, const at::Tensor& windows_NT,
               const BlockByBlockOptions& options, const PartFolder& parts)
      : source_(source),
        windows_NT_(windows_NT),
        options_(options),
        parts_(parts),
        space_(options.space),
        progress_(options, num_linear()) {}

  BlockByBlockResult run() {
    const auto start = Clock::now();
    start_streams();
    for (int64_t layer = 0; layer < source_.config().layers; ++layer) {
      const auto before = Clock::now();
      const int64_t resumed = result_.num_resumed;
      pass_and_quantize(layer);
      if (result_.num_resumed == resumed) result_.block_seconds.push_back(seconds_since(before));
    }
    const std::string warning = too_few_tokens_warning(result_.reports);
    if (!warning.empty()) options_.warn(warning);
    result_.seconds = seconds_since(start);
    return std::move(result_);
  }

 private:
  bool has_transform() const { return static_cast<bool>(options_.transform.apply); }

  bool wants_offset(TapPoint point) const {
    const auto points = offset_points(options_.mean_offset);
    return std::find(points.begin(), points.end(), point) != points.end();
  }

  // Counts the linear layers and checks their groups before any work.
  int64_t num_linear() const {
    int64_t count = 0;
    for (const ParameterSpec& spec : parameter_specs(source_.config())) {
      if (spec.kind != ParameterKind::matrix) continue;
      check_group(options_.weights.grid.group, spec.shape[1], spec.name);
      ++count;
    }
    return count;
  }

  at::Tensor first_windows(int64_t count) const {
    return windows_NT_.narrow(0, 0, std::min(count, windows_NT_.size(0)));
  }

  std::unique_ptr<CalibrationStream> stream(const ParameterStore& store, const at::Tensor& windows,
                                            bool in_pieces) {
    return std::make_unique<CalibrationStream>(store, windows, in_pieces, options_.batch_tokens,
                                               space_);
  }

  // Phase 1 of block_by_block.h, with the tables and the final norm. The order matters: each stream
  // starts from the embeddings as they are at that moment.
  void start_streams() {
    ParameterStore store = source_.read(kOutsideBlocks);
    set_compute_type(store, options_.bf16);
    // The untransformed model shows kurtosis and, where the transform asks for them, statistics.
    if (windows_NT_.defined()) {
      const bool all = options_.transform.kept_rows > 0;
      untransformed_ = stream(store, all ? windows_NT_ : first_windows(kKurtosisWindows), false);
    }
    if (has_transform()) options_.transform.apply(store, nullptr);
    const QuantizedWeights tables = round_tables(store, options_.tables);
    set_compute_type(store, options_.bf16);
    if (windows_NT_.defined()) {
      // A rounding without a Hessian looks at activations for the report alone.
      const bool all = options_.weights.rounding->needs_calibration();
      quantized_ = stream(store, all ? windows_NT_ : first_windows(kKurtosisWindows), true);
      if (options_.weights.wants_unquantized()) {
        unquantized_ = stream(store, windows_NT_, true);
      }
      if (has_transform()) transformed_ = stream(store, first_windows(kKurtosisWindows), false);
    }
    // Store what lies outside the blocks.
    result_.config = store.config;
    if (parts_.has(kNoLayer)) return;
    TensorBuffers tensors;
    add_part(tensors, store, tables, {}, 16, options_.tables);
    parts_.save(kNoLayer, tensors, Json::object());
  }

  // Takes the untransformed or the transformed stream through a block and measures the inputs of
  // its linear layers; `statistics`, if any, sees them, too.
  InputMeasurements advance_and_measure(CalibrationStream& passing, const ParameterStore& store,
                                        int64_t layer, const OnlineTransforms& online,
                                        ChannelStatisticsTap* statistics, bool wants_rows) {
    InputMeasurements inputs;
    passing.advance(
        store, layer, {.online = online}, [&](TapPoint point, const at::Tensor& x, int64_t first) {
          if (statistics != nullptr) statistics->at(point, layer, x);
          const int64_t kurtosis = std::clamp<int64_t>(kKurtosisWindows - first, 0, x.size(0));
          if (kurtosis > 0) add_kurtosis(inputs.kurtosis[point], x.narrow(0, 0, kurtosis));
          const int64_t rows = std::clamp<int64_t>(kScaleWindows - first, 0, x.size(0));
          if (wants_rows && rows > 0) inputs.rows[point].push_back(x.narrow(0, 0, rows).clone());
          const int64_t summed = std::clamp<int64_t>(kOffsetWindows - first, 0, x.size(0));
          if (wants_offset(point) && summed > 0) add_tokens(inputs, point, x.narrow(0, 0, summed));
        });
    return inputs;
  }

  // Phases 2 to 6 of block_by_block.h.
  void pass_and_quantize(int64_t layer) {
    // 2. Read the block.
    ParameterStore store = source_.read(layer);
    set_compute_type(store, options_.bf16);
    // 3. Measure the inputs as they are.
    const bool wants_rows = options_.activations == ActivationMode::per_tensor;
    InputMeasurements before, after;
    std::optional<ChannelStatisticsTap> statistics;
    if (untransformed_) {
      if (options_.transform.kept_rows > 0) {
        statistics.emplace(options_.transform.kept_rows, windows_NT_.numel());
      }
      before =
          advance_and_measure(*untransformed_, store, layer, {.query_key_hadamard = false},
                              statistics ? &*statistics : nullptr, wants_rows && !has_transform());
    }
    // 4. Transform the weights.
    if (has_transform()) {
      options_.transform.apply(store, statistics ? &*statistics : nullptr);
      set_compute_type(store, options_.bf16);
    }
    // 5. Measure the inputs of the transformed block.
    if (transformed_) {
      after = advance_and_measure(*transformed_, store, layer, options_.transform.online, nullptr,
                                  wants_rows);
    } else {
      after = before;
    }
    // 6. Quantize and store it, or take the part of an earlier run.
    if (parts_.has(layer)) {
      take_part(store, layer);
    } else {
      quantize(store, layer, before, after, grids_of(store, layer, after));
    }
  }

  CalibrationStreams streams() const { return {quantized_.get(), unquantized_.get()}; }

  WeightSettings settings(const ActivationGrids& grids) const {
    WeightSettings settings = options_.weights;
    settings.online = options_.transform.online;
    settings.grids = grids;
    return settings;
  }

  void quantize(const ParameterStore& store, int64_t layer, const InputMeasurements& before,
                const InputMeasurements& after, const ActivationGrids& grids) {
    // Quantize layer by layer; the quantized and the unquantized stream leave the block.
    QuantizedWeights weights;
    std::vector<LinearReport> reports;
    const BlockWatcher watcher{options_.warn, [&] {
                                 progress_.layer_done();
                                 if (options_.stop && options_.stop()) {
                                   fail(ErrorCode::interrupted,
                                        "stopped by {} in block {} of {}; the same command with "
                                        "--resume goes on there",
                                        stop_signal_name(), layer, source_.config().layers);
                                 }
                               }};
    quantize_block(store, layer, settings(grids), streams(), weights, reports, watcher);
    // Add the kurtosis of each layer's input to its report.
    for (const LinearGroup& group : linear_groups(store, layer)) {
      for (const int64_t parameter : group.parameters) {
        const std::string& name = store.specs[static_cast<size_t>(parameter)].name;
        for (LinearReport& report : reports) {
          if (report.name != name || before.kurtosis.empty()) continue;
          report.kurtosis_before = before.kurtosis.at(group.input).mean();
          report.kurtosis_after = after.kurtosis.at(group.input).mean();
        }
      }
    }
    // Store the part: tensors first, because its JSON file says that it is complete.
    Json info = {{"layers", Json::array()}, {"scales", activation_scales_json(grids.scales)}};
    for (const LinearReport& report : reports) info["layers"].push_back(linear_report_json(report));
    TensorBuffers tensors;
    add_part(tensors, store, weights, grids.scales, options_.activation_bits);
    add_offsets(tensors, grids.offsets);
    parts_.save(layer, tensors, info);
    keep(reports, grids.scales);
  }

  // Takes over a block that an earlier run stored: the windows pass it as they did then.
  void take_part(ParameterStore& store, int64_t layer) {
    const std::string where = parts_.info_path(layer);
    const Json info = parts_.info(layer);
    if (!info.is_object() || !info.contains("layers") || !info.contains("scales")) {
      fail(ErrorCode::damaged, "{}: not the report of a part", where);
    }
    std::vector<LinearReport> reports;
    for (const Json& report : info["layers"]) reports.push_back(parse_linear_report(report, where));
    ActivationGrids grids = options_.weights.grids;
    grids.scales = parse_activation_scales(info["scales"], where);
    if (quantized_) {
      const SafetensorsFile file = parts_.tensors(layer);
      std::set<std::string> taken;
      const QuantizedWeights weights = read_part(file.tensors(), store, options_.weights.grid,
                                                 parts_.tensors_path(layer), taken);
      grids.offsets = read_offsets(file.tensors(), store.config, options_.mean_offset, {&layer, 1},
                                   parts_.tensors_path(layer));
      pass_block(store, layer, settings(grids), streams(), weights);
    }
    ++result_.num_resumed;
    progress_.skip(static_cast<int64_t>(reports.size()));
    keep(reports, grids.scales);
  }

  // The grids of the block's activations: offsets first, because static scales are those of what
  // they leave.
  ActivationGrids grids_of(const ParameterStore& store, int64_t layer,
                           const InputMeasurements& inputs) const {
    ActivationGrids grids = options_.weights.grids;
    if (!options_.activation_bits.quantizes()) return grids;
    for (const auto& [point, sum] : inputs.sums) {
      const double tokens = static_cast<double>(inputs.tokens.at(point));
      grids.offsets[{point, layer}] = sum.div(tokens).to(at::kFloat);
    }
    grids.scales = static_scales(store, layer, inputs, grids.offsets);
    return grids;
  }

  ActivationScales static_scales(const ParameterStore& store, int64_t layer,
                                 const InputMeasurements& inputs,
                                 const InputOffsets& offsets) const {
    if (options_.activations == ActivationMode::per_token) return {};
    if (options_.activations == ActivationMode::after_norm) {
      return norm_scales(store, layer, options_.activation_bits.bits);
    }
    ActivationScales scales;
    for (const auto& [point, rows] : inputs.rows) {
      const auto offset = offsets.find({point, layer});
      const at::Tensor x = at::cat(rows);
      scales[{point, layer}] = calibrated_scale(offset == offsets.end() ? x : x.sub(offset->second),
                                                options_.activation_bits);
    }
    return scales;
  }

  void keep(const std::vector<LinearReport>& reports, const ActivationScales& scales) {
    result_.reports.insert(result_.reports.end(), reports.begin(), reports.end());
    result_.scales.insert(scales.begin(), scales.end());
  }

  const ModelSource& source_;
  const at::Tensor windows_NT_;
  const BlockByBlockOptions& options_;
  const PartFolder& parts_;
  ActivationSpace space_;
  Progress progress_;
  BlockByBlockResult result_;
  // The calibration windows in front of the next block, in four models; null where not wanted.
  std::unique_ptr<CalibrationStream> untransformed_;  // as it is in the source
  std::unique_ptr<CalibrationStream> transformed_;    // transformed, few windows, for measurements
  std::unique_ptr<CalibrationStream> quantized_;      // transformed and quantized up to here
  std::unique_ptr<CalibrationStream> unquantized_;    // transformed, all windows, for corrections
};

}  // namespace

BlockByBlockResult quantize_block_by_block(const ModelSource& source, const at::Tensor& windows_NT,
                                           const BlockByBlockOptions& options,
                                           const PartFolder& parts) {
  const at::NoGradGuard no_grad;
  return BlockByBlock(source, windows_NT, options, parts).run();
}

}  // namespace osp
