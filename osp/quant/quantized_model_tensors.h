// Quantized layers as tensors of a safetensors file, in the names and shapes of the
// compressed-tensors layout "pack-quantized":
//
//   NAME_packed      I32 [out, ceil(in · bits / 32)]   codes + 2^(b−1)
//   (formats/compressed_tensors.h) NAME_scale       F32 or F16 [out, groups] NAME_shape       I64
//   [2]: out, in NAME_zero_point  I32 [ceil(out · bits / 32), groups], asymmetric only: packed
//   along `out`
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "osp/formats/safetensors.h"
#include "osp/quant/quantized_linear.h"

namespace osp {

// Tensors to be written and the memory that they point to.
struct TensorBuffers {
  std::vector<TensorEntry> entries;
  std::vector<at::Tensor> held;

  void add(const std::string& name, const std::string& dtype, const at::Tensor& tensor);
};

// Adds the tensors of one layer. Scales are stored as F16 if all of them are fp16 numbers.
void add_quantized(TensorBuffers& buffers, const std::string& name, const QuantizedLinear& layer);

// Reads a layer back; `taken` gets the names of its tensors. `where` (a file) begins the messages:
// Error(damaged) if a tensor is missing or has another type or shape than bits, group and its
// weight_shape say.
QuantizedLinear read_quantized(const std::map<std::string, TensorView>& tensors,
                               const std::string& name, int64_t bits, int64_t group, bool symmetric,
                               const std::string& where, std::set<std::string>& taken);

}  // namespace osp
