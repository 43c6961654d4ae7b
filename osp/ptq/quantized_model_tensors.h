// Parts of a quantized model as tensors of a safetensors file. Quantized layers have the names and
// shapes of the layouts of compressed-tensors (formats/compressed_tensors.h).
// Integers, "pack-quantized":
//
//   NAME_packed      I32 [out, ceil(in · bits / 32)]            codes + 2^(b−1)
//   NAME_scale       F32 or F16 [out, groups]
//   NAME_shape       I64 [2]: out, in
//   NAME_zero_point  I8 [out, groups], asymmetric only; earlier versions packed it along `out`,
//                    as I32 [ceil(out · bits / 32), groups], which is still read
//
// NVFP4, "nvfp4-pack-quantized", and MXFP4, "mxfp4-pack-quantized":
//
//   NAME_packed        U8 [out, in / 2]         two E2M1 codes in a byte
//   NAME_scale         F8_E4M3 [out, in / 16]; MXFP4 U8 [out, in / 32], the code of E8M0
//   NAME_global_scale  F32 [1], NVFP4 only
//
// FP8, "float-quantized": NAME itself, F8_E4M3 [out, in], and NAME_scale, F32 [out, 1].
//
// NAME is that of the weight in the files of the model's family; layers that the family stores as
// one tensor (q, k, v of GPT-NeoX) are one here, too. Offsets of activations are F32 [channels] and
// called osp.layers.N.POINT.offset, with POINT the input that they are subtracted from.
//
// Tested by quantized_model_dir_test.cpp and tests/python/test_quantize_formats.py.
#pragma once

#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "osp/formats/safetensors.h"
#include "osp/model/hf_family.h"
#include "osp/model/parameters.h"
#include "osp/quant/activation_grids.h"
#include "osp/quant/quantized_linear.h"
#include "osp/quant/tables.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

// Tensors to be written and the memory that they point to.
struct TensorBuffers {
  std::vector<TensorEntry> entries;
  std::vector<at::Tensor> held;

  void add(const std::string& name, const std::string& dtype, const at::Tensor& tensor);
};

// int32 words [rows, ceil(columns · bits / 32)] of int8 codes [rows, columns]
// (formats/compressed_tensors.h).
at::Tensor packed_rows(const at::Tensor& codes, int64_t bits);

// The configuration whose family's names the files of a quantized model have.
ModelConfig stored_config(ModelConfig config);

// The quantized layer that a stored tensor stands for; none if its parameters are not quantized.
std::optional<QuantizedLinear> joined_layer(const StoredTensor& stored, const ParameterStore& part,
                                            const QuantizedWeights& weights);

// The reverse of joining: the layers of the parameters that a stored tensor holds.
std::vector<QuantizedLinear> split_layer(const ModelConfig& config, const StoredTensor& stored,
                                         const QuantizedLinear& layer);

// Adds a quantized layer under the name of its weight, as above; with `wide_scales` those of
// integers are F32, in whose type other programs multiply.
void add_quantized(TensorBuffers& buffers, const std::string& name, const QuantizedLinear& layer,
                   bool wide_scales = false);

// Adds all parameters of a part: quantized layers and integer tables as above (scales of integers
// as F16 if all of them are fp16 numbers), bf16 tables, which hold bf16 numbers, as BF16, the
// others in fp32, and beside weights whose input has a static scale of `activations` input_scale
// and input_zero_point, of FP8 input_scale, of NVFP4 input_global_scale.
void add_part(TensorBuffers& buffers, const ParameterStore& part, const QuantizedWeights& weights,
              const ActivationScales& scales = {}, const NumberFormat& activations = 16,
              TableType tables = TableType::fp32);

// Adds offsets, and takes those of some layers back, for the inputs named. Error(damaged) beginning
// with `where` if one is missing, has another size than the configuration says or is not finite.
void add_offsets(TensorBuffers& buffers, const InputOffsets& offsets);
InputOffsets read_offsets(const std::map<std::string, TensorView>& tensors,
                          const ModelConfig& config, MeanOffset inputs,
                          std::span<const int64_t> layers, const std::string& where);

// Reads the quantized layers of a part (or of a whole model) back, by the name of the parameter,
// and the others into the masters of `part`, integer tables (of type `tables`) as the numbers that
// they stand for; their codes go to `table_codes`, if any. `taken` gets the names of the tensors
// that are no codes. `where` (a file) begins the messages: Error(damaged) if a tensor is missing or
// has another type or shape than the grid and the configuration say.
QuantizedWeights read_part(const std::map<std::string, TensorView>& tensors, ParameterStore& part,
                           const WeightGrid& grid, const std::string& where,
                           std::set<std::string>& taken, TableType tables = TableType::fp32,
                           QuantizedWeights* table_codes = nullptr);

}  // namespace osp
