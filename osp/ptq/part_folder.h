// The parts of a quantized model while it is made: one safetensors file for the tensors outside the
// blocks and one per block, each with a JSON file. A part is complete once its JSON file exists, so
// that an interrupted run can be resumed after the last one; together they become the model dir.
//
// Tested by quantize_block_test.cpp and quantized_model_dir_test.cpp.
#pragma once

#include <cstdint>
#include <string>

#include "osp/base/json.h"
#include "osp/formats/safetensors.h"
#include "osp/ptq/quantized_model_tensors.h"

namespace osp {

// The part that holds what a transform learned, for --resume alone.
inline constexpr int64_t kLearnedPart = kNoLayer - 1;

class PartFolder {
 public:
  // Creates the folder, or with `resume` keeps the parts that are there. `fingerprint` is
  // everything that they depend on (model, transforms, calibration, settings): Error(usage) if they
  // were made with another one.
  PartFolder(const std::string& path, const Json& fingerprint, bool resume);

  // `part` is a layer, kNoLayer for what lies outside the blocks, or kLearnedPart.
  bool has(int64_t part) const;
  void save(int64_t part, const TensorBuffers& tensors, const Json& info) const;
  Json info(int64_t part) const;
  SafetensorsFile tensors(int64_t part) const;
  std::string tensors_path(int64_t part) const;
  std::string info_path(int64_t part) const;

 private:
  std::string path_;
};

}  // namespace osp
