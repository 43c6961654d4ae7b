// Parts of a quantized model as tensors of a safetensors file. Quantized layers have the names and
// shapes of the compressed-tensors layout "pack-quantized" (formats/compressed_tensors.h):
//
//   NAME_packed      I32 [out, ceil(in · bits / 32)]            codes + 2^(b−1)
//   NAME_scale       F32 or F16 [out, groups]
//   NAME_shape       I64 [2]: out, in
//   NAME_zero_point  I8 [out, groups], asymmetric only; earlier versions packed it along `out`, as I32
//                    [ceil(out · bits / 32), groups], which is still read
//
// NAME is that of the weight in the files of the model's family; layers that the family stores as
// one tensor (q, k, v of GPT-NeoX) are one here, too. Offsets of activations are F32 [channels] and
// called osp.layers.N.POINT.offset, with POINT the input that they are subtracted from.
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

// Adds all parameters of a part: quantized layers as above (scales as F16 if all of them are fp16
// numbers), the others in fp32, and input_scale and input_zero_point beside weights whose input has
// a static scale of `activation_bits`.
void add_part(TensorBuffers& buffers, const ParameterStore& part, const QuantizedWeights& weights,
              const ActivationScales& scales = {}, int64_t activation_bits = 16);

// Adds offsets, and takes those of some layers back, for the inputs named. Error(damaged) beginning
// with `where` if one is missing, has another size than the configuration says or is not finite.
void add_offsets(TensorBuffers& buffers, const InputOffsets& offsets);
InputOffsets read_offsets(const std::map<std::string, TensorView>& tensors,
                          const ModelConfig& config, MeanOffset inputs,
                          std::span<const int64_t> layers, const std::string& where);

// Reads the quantized layers of a part (or of a whole model) back, by the name of the parameter,
// and the others into the masters of `part`; `taken` gets the names of their tensors. `where` (a
// file) begins the messages: Error(damaged) if a tensor is missing or has another type or shape
// than the grid and the configuration say.
QuantizedWeights read_part(const std::map<std::string, TensorView>& tensors, ParameterStore& part,
                           const WeightGrid& grid, const std::string& where,
                           std::set<std::string>& taken);

}  // namespace osp
