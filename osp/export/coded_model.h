// The codes of a model for the formats that carry codes, whoever quantized it: a folder of `osp
// quantize`, one of GPTQ, AWQ, compressed-tensors or torchao with integers, or a GGUF file whose
// blocks are integers with a scale and a zero point.
//
// Tested by tests/python/test_export_codes.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "osp/base/json.h"
#include "osp/model/hf_family.h"
#include "osp/model/packed_layout.h"
#include "osp/ptq/quantized_model_config.h"
#include "osp/quant/quantized_linear.h"

namespace osp {

// A tensor of the model's files: codes, or numbers in fp32.
struct CodedTensor {
  const ParameterStore& part;  // that stored.parameters index
  const StoredTensor& stored;
  const QuantizedLinear* layer;  // null: numbers
  at::Tensor column_group;       // int32 [in], with codes in act-order; undefined otherwise
  at::Tensor numbers;            // without a layer
  bool decoded = false;          // these stand for codes of what is no linear layer of a block
};

class CodedModel {
 public:
  virtual ~CodedModel() = default;
  // Bits and grid of the weights, and how they came about. Of other programs' folders "method" is
  // HfConfig::rounded_before, and activations and cache have 16 bits.
  virtual const QuantizedModelInfo& info() const = 0;
  virtual const ModelConfig& config() const = 0;  // with the family of the files' names
  virtual Json config_json() const = 0;           // config.json without quantization
  // Gives every tensor of the files in order, those outside the blocks first.
  virtual void each(const std::function<void(const CodedTensor&)>& take) const = 0;
};

// True for a linear layer of a block, which formats of codes expect to have codes.
bool is_block_layer(const CodedTensor& tensor);

// Opens a model with codes. Error(usage) with what to do if it has plain weights,
// Error(unsupported) if another program's codes are no integers.
std::unique_ptr<CodedModel> open_coded_model(const std::string& dir);

// The layout of a folder whose weights another program quantized; none for other folders and files.
std::optional<PackedLayout> foreign_layout(const std::string& dir);

// True for a folder whose codes another program made and open_coded_model reads; opens nothing
// else.
bool has_foreign_codes(const std::string& dir);

}  // namespace osp
