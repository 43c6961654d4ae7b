// Linear layers that read the same input and that other programs join into one product: q, k and v
// of a block, and gate and up of a block or of an expert. Formats with one constant for a stored
// tensor (NVFP4) give such layers one constant, that of the largest weight of them all, as
// llm-compressor does; vLLM takes the largest of joined layers whatever the file says.
#pragma once

#include <cstdint>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/quant/weight_quantizer.h"

namespace osp {

// The layers that are joined with the layer `parameter`, itself among them, as indices of `specs`,
// in which the parameters of a block stand together.
std::vector<int64_t> joined_layers(const std::vector<ParameterSpec>& specs, int64_t parameter);

// The grid for one of the layers of a store: in NVFP4 with the largest magnitude in the weights of
// all layers that are joined with it.
WeightGrid grid_of_layer(WeightGrid grid, const ParameterStore& store, int64_t parameter);

}  // namespace osp
