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

// Parts that are no layer.
inline constexpr int64_t kOutsidePart = -1;  // what lies outside the blocks
inline constexpr int64_t kLearnedPart = -2;  // what a transform learned, for --resume alone

class PartFolder {
 public:
  // Creates the folder, or with `resume` keeps the parts that are there. `fingerprint` is
  // everything that they depend on (model, transforms, calibration, settings): Error(usage) if they
  // were made with another one.
  PartFolder(const std::string& path, const Json& fingerprint, bool resume);

  // `part` is a layer, or one of the constants above.
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
