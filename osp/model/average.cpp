#include "osp/model/average.h"

#include <ATen/TensorOperators.h>

#include <memory>

#include "osp/base/error.h"
#include "osp/base/json.h"
#include "osp/base/json_text.h"
#include "osp/model/hf_config.h"
#include "osp/model/model_dir.h"

namespace osp {
namespace {

using Sources = std::vector<std::unique_ptr<ModelSource>>;

// The context is no part of a checkpoint's shapes, but of what the model is.
void check_same_model(const ModelConfig& first, const std::string& first_path,
                      const ModelConfig& other, const std::string& path) {
  if (first == other) return;
  const Json wanted = parse_json(model_config_json(first), "config.json");
  const Json found = parse_json(model_config_json(other), "config.json");
  for (const auto& [key, value] : wanted.items()) {
    const Json theirs = found.contains(key) ? found[key] : Json(nullptr);
    if (theirs == value) continue;
    fail(ErrorCode::usage,
         "{}: {} is {}, but {} in {}; give checkpoints of one run, whose weights have a mean", path,
         key, json_text(theirs), json_text(value), first_path);
  }
  fail(ErrorCode::usage, "{}: another model than {}; give checkpoints of one run", path,
       first_path);
}

Sources open_same_models(const std::vector<std::string>& paths) {
  Sources sources;
  for (const std::string& path : paths) {
    sources.push_back(open_model(find_model_dir(path)));
    check_same_model(sources[0]->config(), paths[0], sources.back()->config(), path);
  }
  return sources;
}

// Writes the mean of a part into the whole model.
void average_part(const Sources& sources, Part part, ParameterStore& mean) {
  std::vector<at::Tensor> sums;
  ParameterStore store;
  for (const auto& source : sources) {
    store = source->read(part);
    sums.resize(store.banks.size());
    for (size_t i = 0; i < sums.size(); ++i) {
      const at::Tensor values = store.banks[i].master.to(at::kDouble);
      sums[i] = sums[i].defined() ? sums[i].add_(values) : values;
    }
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    store.banks[i].master.copy_(sums[i].div_(static_cast<double>(sources.size())));
  }
  for (size_t i = 0; i < store.specs.size(); ++i) {
    mean.master(mean.find(store.specs[i].name)).copy_(store.master(static_cast<int64_t>(i)));
  }
}

}  // namespace

ParameterStore average_models(const std::vector<std::string>& paths) {
  if (paths.size() < 2) {
    fail(ErrorCode::usage, "{} model: a mean needs at least two checkpoints", paths.size());
  }
  const Sources sources = open_same_models(paths);
  const ModelConfig& config = sources[0]->config();
  ParameterStore mean = make_parameters(config, {});
  for (int64_t part = kNoLayer; part < config.layers; ++part) {  // outside the blocks first
    average_part(sources, part, mean);
  }
  sync_compute(mean);
  return mean;
}

}  // namespace osp
