#include "osp/model/model_source.h"

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>

#include <utility>

#include "osp/base/error.h"
#include "osp/model/fuse.h"
#include "osp/model/packed_weights.h"

namespace osp {
namespace {

class FusedSource : public ModelSource {
 public:
  explicit FusedSource(std::unique_ptr<ModelSource> source) : source_(std::move(source)) {
    config_ = fused_config(source_->config());
  }
  const ModelConfig& config() const override { return config_; }
  ParameterStore read(Part part, StoreOptions options) const override {
    OSP_CHECK(!options.bf16 && !options.gradients, "a fused part is read in fp32");
    return fuse(source_->read(part));
  }
  std::string rounded_before() const override { return source_->rounded_before(); }

 private:
  std::unique_ptr<ModelSource> source_;
  ModelConfig config_;
};

class StoreSource : public ModelSource {
 public:
  explicit StoreSource(const ParameterStore& store) : store_(store) {}
  const ModelConfig& config() const override { return store_.config; }
  ParameterStore read(Part part, StoreOptions options) const override {
    const c10::NoGradGuard no_graph;
    options.part = part;
    options.group = {};
    ParameterStore copy = make_parameters(store_.config, options);
    for (size_t i = 0; i < copy.specs.size(); ++i) {
      copy.master(static_cast<int64_t>(i)).copy_(store_.master(store_.find(copy.specs[i].name)));
    }
    sync_compute(copy);
    return copy;
  }

 private:
  const ParameterStore& store_;
};

}  // namespace

std::optional<PackedCodes> ModelSource::codes(const StoredTensor& /*stored*/,
                                              const std::vector<ParameterSpec>& /*specs*/) const {
  return std::nullopt;
}

std::unique_ptr<ModelSource> fused_source(std::unique_ptr<ModelSource> source) {
  if (!needs_fusing(source->config())) return source;
  return std::make_unique<FusedSource>(std::move(source));
}

std::unique_ptr<ModelSource> source_of(const ParameterStore& store) {
  return std::make_unique<StoreSource>(store);
}

}  // namespace osp
