#include "osp/ptq/pipeline.h"

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
#include "osp/base/timing.h"
#include "osp/measure/rows.h"
#include "osp/ptq/quantize_report.h"
#include "osp/ptq/quantized_model_dir.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kKurtosisWindows = 8;
constexpr int64_t kScaleWindows = 4;

// What calibration windows show of the inputs of one block's linear layers.
struct Seen {
  std::map<TapPoint, KurtosisMean> kurtosis;
  std::map<TapPoint, std::vector<at::Tensor>> rows;  // of the first windows, for static scales
};

void add_kurtosis(KurtosisMean& mean, const at::Tensor& input) {
  for_each_row_block(input,
                     [&](int64_t, std::span<const float>, std::span<const RowStatistics> rows) {
                       for (const RowStatistics& row : rows) {
                         const double m2 = row.moments.m2;
                         if (m2 > 0.0 || !std::isfinite(m2)) mean.add(excess_kurtosis(row.moments));
                       }
                     });
}

// Time left from what was spent on the layers since the run (or its new part) began.
class Progress {
 public:
  Progress(const PipelineOptions& options, int64_t total) : options_(options), total_(total) {}
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
  const PipelineOptions& options_;
  int64_t total_, done_ = 0, timed_ = 0;
  Clock::time_point start_ = Clock::now();
};

class Pipeline {
 public:
  Pipeline(const ModelSource& source, const at::Tensor& windows_NT, const PipelineOptions& options,
           const PartFolder& parts)
      : source_(source),
        windows_NT_(windows_NT),
        options_(options),
        parts_(parts),
        space_(options.space),
        progress_(options, num_linear()) {}

  PipelineResult run() {
    const auto start = Clock::now();
    outside();
    for (int64_t layer = 0; layer < source_.config().layers; ++layer) {
      const auto before = Clock::now();
      const int64_t resumed = result_.num_resumed;
      block(layer);
      const double spent = seconds_since(before);
      if (result_.num_resumed == resumed) result_.block_seconds.push_back(spent);
    }
    result_.seconds = seconds_since(start);
    return std::move(result_);
  }

 private:
  bool transforms() const { return static_cast<bool>(options_.transform.apply); }

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

  // The tables and the final norm; the streams begin with their embeddings.
  void outside() {
    ParameterStore store = source_.read(kOutsideBlocks);
    set_compute_type(store, options_.bf16);
    if (windows_NT_.defined()) {
      const bool all = options_.transform.kept_rows > 0;
      plain_ = stream(store, all ? windows_NT_ : first_windows(kKurtosisWindows), false);
    }
    if (transforms()) options_.transform.apply(store, nullptr);
    set_compute_type(store, options_.bf16);
    if (windows_NT_.defined()) {
      // Rounding to nearest looks at activations for the report alone.
      const bool all = options_.weights.method == WeightMethod::gptq;
      quantized_ = stream(store, all ? windows_NT_ : first_windows(kKurtosisWindows), true);
      if (options_.weights.wants_original()) {
        original_ = stream(store, windows_NT_, true);
      }
      if (transforms()) transformed_ = stream(store, first_windows(kKurtosisWindows), false);
    }
    result_.config = store.config;
    if (parts_.has(-1)) return;
    TensorBuffers tensors;
    add_part(tensors, store, {});
    parts_.save(-1, tensors, Json::object());
  }

  // Takes a stream of the original or of the transformed model through a block and looks at the
  // inputs of its linear layers.
  Seen watch(CalibrationStream& passing, const ParameterStore& store, int64_t layer,
             const OnlineTransforms& online, ChannelStatisticsTap* statistics, bool wants_rows) {
    Seen seen;
    passing.advance(
        store, layer, {.online = online}, [&](TapPoint point, const at::Tensor& x, int64_t first) {
          if (statistics != nullptr) statistics->at(point, layer, x);
          const int64_t kurtosis = std::clamp<int64_t>(kKurtosisWindows - first, 0, x.size(0));
          if (kurtosis > 0) add_kurtosis(seen.kurtosis[point], x.narrow(0, 0, kurtosis));
          const int64_t rows = std::clamp<int64_t>(kScaleWindows - first, 0, x.size(0));
          if (wants_rows && rows > 0) seen.rows[point].push_back(x.narrow(0, 0, rows).clone());
        });
    return seen;
  }

  void block(int64_t layer) {
    ParameterStore store = source_.read(layer);
    set_compute_type(store, options_.bf16);
    const bool wants_rows = options_.activations == ActivationMode::per_tensor;
    Seen before, after;
    std::optional<ChannelStatisticsTap> statistics;
    if (plain_) {
      if (options_.transform.kept_rows > 0) {
        statistics.emplace(options_.transform.kept_rows, windows_NT_.numel());
      }
      before = watch(*plain_, store, layer, {.query_key_hadamard = false},
                     statistics ? &*statistics : nullptr, wants_rows && !transforms());
    }
    if (transforms()) {
      options_.transform.apply(store, statistics ? &*statistics : nullptr);
      set_compute_type(store, options_.bf16);
    }
    if (transformed_) {
      after = watch(*transformed_, store, layer, options_.transform.online, nullptr, wants_rows);
    } else {
      after = before;
    }
    if (parts_.has(layer)) {
      take_part(store, layer);
    } else {
      quantize(store, layer, before, after);
    }
  }

  CalibrationStreams streams() const { return {quantized_.get(), original_.get()}; }

  WeightSettings settings() const {
    WeightSettings settings = options_.weights;
    settings.online = options_.transform.online;
    return settings;
  }

  void quantize(const ParameterStore& store, int64_t layer, const Seen& before, const Seen& after) {
    QuantizedWeights weights;
    std::vector<LinearReport> reports;
    const BlockWatcher watcher{options_.warn, [&] {
                                 progress_.layer_done();
                                 if (options_.stop && options_.stop()) {
                                   fail(ErrorCode::interrupted,
                                        "stopped in block {} of {}; the same command with --resume "
                                        "goes on there",
                                        layer, source_.config().layers);
                                 }
                               }};
    quantize_block(store, layer, settings(), streams(), weights, reports, watcher);
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
    const ActivationScales scales = static_scales(store, layer, after);
    Json info = {{"layers", Json::array()}, {"scales", activation_scales_json(scales)}};
    for (const LinearReport& report : reports) info["layers"].push_back(linear_report_json(report));
    TensorBuffers tensors;
    add_part(tensors, store, weights, scales, options_.activation_bits);
    parts_.save(layer, tensors, info);
    keep(reports, scales);
  }

  // A block whose part was there: the windows go through it as they did.
  void take_part(ParameterStore& store, int64_t layer) {
    const std::string where = parts_.info_path(layer);
    const Json info = parts_.info(layer);
    if (!info.is_object() || !info.contains("layers") || !info.contains("scales")) {
      fail(ErrorCode::damaged, "{}: not the report of a part", where);
    }
    std::vector<LinearReport> reports;
    for (const Json& report : info["layers"]) reports.push_back(parse_linear_report(report, where));
    if (quantized_) {
      const SafetensorsFile file = parts_.tensors(layer);
      std::set<std::string> taken;
      const QuantizedWeights weights = read_part(file.tensors(), store, options_.weights.grid,
                                                 parts_.tensors_path(layer), taken);
      pass_block(store, layer, settings(), streams(), weights);
    }
    ++result_.num_resumed;
    progress_.skip(static_cast<int64_t>(reports.size()));
    keep(reports, parse_activation_scales(info["scales"], where));
  }

  ActivationScales static_scales(const ParameterStore& store, int64_t layer,
                                 const Seen& seen) const {
    if (options_.activation_bits == 16 || options_.activations == ActivationMode::per_token)
      return {};
    if (options_.activations == ActivationMode::after_norm) {
      return norm_scales(store, layer, options_.activation_bits);
    }
    ActivationScales scales;
    for (const auto& [point, rows] : seen.rows) {
      scales[{point, layer}] = calibrated_scale(at::cat(rows), options_.activation_bits);
    }
    return scales;
  }

  void keep(const std::vector<LinearReport>& reports, const ActivationScales& scales) {
    result_.reports.insert(result_.reports.end(), reports.begin(), reports.end());
    result_.scales.insert(scales.begin(), scales.end());
  }

  const ModelSource& source_;
  const at::Tensor windows_NT_;
  const PipelineOptions& options_;
  const PartFolder& parts_;
  ActivationSpace space_;
  Progress progress_;
  PipelineResult result_;
  // The model as it was; transformed; the same with quantized weights, and beside it without.
  std::unique_ptr<CalibrationStream> plain_, transformed_, quantized_, original_;
};

}  // namespace

PipelineResult quantize_parts(const ModelSource& source, const at::Tensor& windows_NT,
                              const PipelineOptions& options, const PartFolder& parts) {
  const at::NoGradGuard no_grad;
  return Pipeline(source, windows_NT, options, parts).run();
}

}  // namespace osp
