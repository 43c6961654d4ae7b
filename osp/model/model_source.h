// A model that is read part by part, so that a caller holds no more than one block of it at a time:
// a folder or file (open_model of osp/model/model_dir.h), another source with EmbProj and gains
// fused, or a store in memory.
//
// Tested by tests/python/test_quantize.py and tests/python/test_model_dir.py.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "osp/model/parameters.h"

namespace osp {

struct PackedCodes;   // osp/model/packed_weights.h
struct StoredTensor;  // osp/model/hf_family.h

class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const ModelConfig& config() const = 0;
  // The parameters of a part, fp32 masters and compute tensors as `options` say (its part and group
  // are not used). Errors as load_model_dir for values that are not finite.
  virtual ParameterStore read(Part part, StoreOptions options = {}) const = 0;
  // How the weights had been rounded before they were read, HfConfig::rounded_before.
  virtual std::string rounded_before() const { return ""; }
  // The integers of a tensor of the files that another program packed, whose parameters are indices
  // of `specs`; none where it holds numbers.
  virtual std::optional<PackedCodes> codes(const StoredTensor& stored,
                                           const std::vector<ParameterSpec>& specs) const;
};

// The source of the same model as a plain Llama: fuse() of osp/model/fuse.h, part by part. Returns
// `source` itself if it needs no fusing.
std::unique_ptr<ModelSource> fused_source(std::unique_ptr<ModelSource> source);

// Copies of the parts of a store, which must outlive the source.
std::unique_ptr<ModelSource> source_of(const ParameterStore& store);

}  // namespace osp
