#include "osp/quant/pipeline.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <set>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/formats/safetensors.h"
#include "osp/measure/rows.h"
#include "osp/model/transformer.h"
#include "osp/quant/calibration_store.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/quantize_report.h"
#include "osp/quant/quantized_model_tensors.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kKurtosisWindows = 8;

// The folder with the parts of finished blocks. A part is whole once its .json is there.
class WorkFolder {
 public:
  WorkFolder(const PipelineOptions& options) : options_(options) {
    if (options.work_dir.empty()) return;
    const std::string settings = options.work_dir + "/settings.json";
    if (options.resume && path_exists(settings)) {
      if (read_json_file(settings) != options.fingerprint) {
        fail(ErrorCode::usage,
             "{}: begun with other settings than asked for now; give the same ones, or leave out "
             "--resume to begin anew",
             options.work_dir);
      }
      return;
    }
    remove_tree(options.work_dir);
    make_directories(options.work_dir);
    write_file_atomic(settings, options.fingerprint.dump(2) + "\n");
  }

  bool has(int64_t layer) const {
    return !options_.work_dir.empty() && path_exists(path(layer) + ".json");
  }

  void save(int64_t layer, const std::vector<std::string>& names, const PipelineResult& result) {
    if (options_.work_dir.empty()) return;
    TensorBuffers buffers;
    Json reports = Json::array();
    for (const std::string& name : names) {
      add_quantized(buffers, name, result.weights.at(name));
      for (const LinearReport& report : result.reports) {
        if (report.name == name) reports.push_back(linear_report_json(report));
      }
    }
    write_safetensors(path(layer) + ".tmp", buffers.entries);
    rename_path(path(layer) + ".tmp", path(layer) + ".safetensors");
    write_file_atomic(path(layer) + ".json", reports.dump(2) + "\n");
  }

  void load(int64_t layer, const std::vector<std::string>& names, PipelineResult& result) const {
    const std::string file = path(layer) + ".safetensors";
    const auto tensors = SafetensorsFile::open(file);
    const WeightGrid& grid = options_.weights.grid;
    std::set<std::string> taken;
    for (const std::string& name : names) {
      result.weights[name] = read_quantized(tensors.tensors(), name, grid.bits, grid.group,
                                            grid.symmetric, file, taken);
    }
    for (const Json& report : read_json_file(path(layer) + ".json")) {
      result.reports.push_back(parse_linear_report(report, path(layer) + ".json"));
    }
  }

 private:
  std::string path(int64_t layer) const {
    return fmt::format("{}/block-{}", options_.work_dir, layer);
  }

  const PipelineOptions& options_;
};

std::vector<std::string> names_of(const ParameterStore& store, int64_t layer) {
  std::vector<std::string> names;
  for (const LinearGroup& group : linear_groups(store, layer)) {
    for (const int64_t parameter : group.parameters) {
      names.push_back(store.specs[static_cast<size_t>(parameter)].name);
    }
  }
  return names;
}

// A stream that holds the embeddings of all windows.
std::unique_ptr<CalibrationStore> embedded(const ParameterStore& store,
                                           const at::Tensor& windows_NT,
                                           const PipelineOptions& options) {
  const int64_t count = windows_NT.size(0), length = windows_NT.size(1);
  auto stream = std::make_unique<CalibrationStore>(
      count, length, store.config.width, store.banks.front().compute.scalar_type(),
      options.weights.memory_limit_bytes / 2, options.scratch_dir);
  const int64_t batch = std::max<int64_t>(1, options.weights.batch_tokens / length);
  for (int64_t first = 0; first < count; first += batch) {
    const int64_t windows = std::min(batch, count - first);
    stream->put(first, forward_embedding(store, windows_NT.narrow(0, first, windows)));
  }
  return stream;
}

// Adds up the kurtosis of the rows of every input.
class KurtosisTap : public LinearInputTap {
 public:
  using LinearInputTap::LinearInputTap;

  std::map<std::pair<int64_t, TapPoint>, KurtosisMean> means;

 private:
  void see(TapPoint point, int64_t layer, const at::Tensor& input) override {
    KurtosisMean& mean = means[{layer, point}];
    for_each_row_block(input,
                       [&](int64_t, std::span<const float>, std::span<const RowStatistics> rows) {
                         for (const RowStatistics& row : rows) {
                           const double kurtosis = excess_kurtosis(row.moments);
                           if (row.moments.m2 > 0.0 || !std::isfinite(row.moments.m2))
                             mean.add(kurtosis);
                         }
                       });
  }
};

}  // namespace

PipelineResult quantize_weights(const ParameterStore& store, const at::Tensor& windows_NT,
                                const PipelineOptions& options) {
  const at::NoGradGuard no_grad;
  const auto start = Clock::now();
  const int64_t layers = store.config.layers;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (const LinearGroup& group : linear_groups(store, layer)) {
      for (const int64_t parameter : group.parameters) {
        const ParameterSpec& spec = store.specs[static_cast<size_t>(parameter)];
        check_group(options.weights.grid.group, spec.shape[1], spec.name);
      }
    }
  }
  WorkFolder work(options);
  std::unique_ptr<CalibrationStore> quantized, original;
  if (windows_NT.defined()) {
    quantized = embedded(store, windows_NT, options);
    if (options.weights.gptq.correction != Correction::none &&
        options.weights.method == WeightMethod::gptq) {
      original = embedded(store, windows_NT, options);
    }
  }
  const CalibrationStreams streams{quantized.get(), original.get()};
  PipelineResult result;
  auto resumed_at = start;
  for (int64_t layer = 0; layer < layers; ++layer) {
    const std::vector<std::string> names = names_of(store, layer);
    if (work.has(layer)) {
      work.load(layer, names, result);
      pass_block(store, layer, options.weights, streams, result.weights);
      ++result.num_resumed;
      resumed_at = Clock::now();
      continue;
    }
    quantize_block(store, layer, options.weights, streams, result.weights, result.reports,
                   options.warn);
    work.save(layer, names, result);
    if (options.progress) {
      const double spent = std::chrono::duration<double>(Clock::now() - resumed_at).count();
      const double per_block = spent / static_cast<double>(layer + 1 - result.num_resumed);
      options.progress(layer + 1, layers, per_block * static_cast<double>(layers - layer - 1));
    }
  }
  result.seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return result;
}

std::map<std::string, double> input_kurtosis(const ParameterStore& store,
                                             const OnlineTransforms& online,
                                             const at::Tensor& windows_NT) {
  const at::NoGradGuard no_grad;
  KurtosisTap tap(store, online);
  const int64_t count = std::min(kKurtosisWindows, windows_NT.size(0));
  for (int64_t i = 0; i < count; ++i) {
    forward_hidden(store, windows_NT.narrow(0, i, 1), watched_by(tap));
  }
  std::map<std::string, double> result;
  for (int64_t layer = 0; layer < store.config.layers; ++layer) {
    for (const LinearGroup& group : linear_groups(store, layer)) {
      for (const int64_t parameter : group.parameters) {
        result[store.specs[static_cast<size_t>(parameter)].name] =
            tap.means[{layer, group.input}].mean();
      }
    }
  }
  return result;
}

}  // namespace osp
