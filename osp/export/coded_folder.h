// What exports of codes share: checks of the model, tensors that are no codes, and the folder.
//
// Tested by tests/python/test_export_codes.py and tests/python/test_quantize_formats.py.
#pragma once

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <string>
#include <vector>

#include "osp/export/coded_model.h"
#include "osp/ptq/quantized_model_tensors.h"

namespace osp {

struct CodedExport {
  double scale_rounding = 0.0;  // largest relative change of a scale by fp16
  int64_t num_layers = 0;
  // A sentence for each tensor with live rows that became zeros.
  std::vector<std::string> lost_rows;
  std::vector<std::string> plain_layers;  // linear layers of blocks that have no codes
  std::vector<std::string> decoded;       // other tensors whose codes became numbers
};

// The type of tensors that are no codes: in safetensors files, in config.json and in ATen.
struct PlainType {
  std::string file, config;
  at::ScalarType type;
};

// By the name of --dtype, `automatic` for auto. Error(usage) for others than f16, bf16 and fp32.
PlainType plain_type(const std::string& dtype, const std::string& automatic);

// Error(unsupported): `where` and the reason.
[[noreturn]] void refuse_export(const std::string& where, const std::string& reason);

// Refuses an online Hadamard of the down projection and experts, which no layout of other programs
// can ask for; `layout` names it ("the GPTQ layout").
void check_coded_model(const CodedModel& model, const std::string& layout,
                       const std::string& where);

// Adds a tensor of numbers in a type. Error(unsupported) if it cannot hold them.
void add_plain(TensorBuffers& buffers, const CodedTensor& tensor, const PlainType& type,
               const std::string& where, CodedExport& report);

// A scale in fp16, in the report. Error(unsupported) if fp16 has no positive finite number for it.
at::Tensor half_scale(const QuantizedLinear& layer, const std::string& name,
                      const std::string& where, CodedExport& report);

// Writes tensors, what lies beside the weights of `dir`, and config.json with the quantization.
void write_coded_folder(const std::string& dir, const std::string& path,
                        const TensorBuffers& buffers, const CodedModel& model,
                        const Json& quantization, const PlainType& plain,
                        bool beside_config = false);

// The name of a layer: that of its weight without ".weight".
std::string layer_name(const std::string& weight);

}  // namespace osp
