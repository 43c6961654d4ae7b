// A quantized model as the engine runs it: packed layers, tables and grids, all from the one set of
// codes of a quantized model dir.
//
// Tested by engine_test.cpp and tests/python/test_engine.py.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "osp/model/parameters.h"
#include "osp/quant/activation_grids.h"
#include "osp/quant/bits.h"
#include "osp/quant/online_transforms.h"
#include "osp/quant/quantized_linear.h"
#include "osp/runtime/head.h"
#include "osp/runtime/packed_linear.h"

namespace osp {

// Version of the arithmetic of docs/numerics.md ("Integer engine"): the same version gives the same
// bits for the same model and tokens.
inline constexpr int kEngineNumerics = 2;

// Everything about a quantized model; the references must live as long as the call.
struct QuantizedParts {
  const ModelConfig& config;
  BitWidths bits;
  int64_t weight_group = 0;  // 0: whole rows
  const OnlineTransforms& online;
  const ActivationGrids& grids;
  // The parameters of a part that are not quantized, and the quantized layers (one block is in
  // memory at a time).
  std::function<ParameterStore(Part part, QuantizedWeights& weights)> read;
};

// Why the engine cannot run such a model, for a message ("its activations have 16 bits"); "" if it
// can. Looks at the configuration and at groups alone.
std::string why_not_in_integers(const QuantizedParts& parts);

// fp16 numbers by rounding to nearest even; Error(unsupported) naming `what` beyond ± 65504.
std::vector<uint16_t> to_half(const at::Tensor& x, const std::string& what);

// The Hadamard transform in blocks of `block`, with its matrix; without a block there is none.
class HadamardTable {
 public:
  explicit HadamardTable(int64_t block = 0);
  // Refers to the table.
  kernels::HadamardPlan plan() const;

 private:
  int64_t size_ = 0, blocks_ = 0, base_ = 0;
  std::vector<int8_t> matrix_;  // [base, base]
};

struct RuntimeLayer {
  // Gains by channel, empty where a norm has none.
  std::vector<float> input_gain, post_gain, query_gain, key_gain;
  PackedLinear qkv, attention_output, gate_up, down;
  kernels::CodeGrid attention_input_grid, attention_output_grid, mlp_input_grid, mlp_product_grid;
  // By channel, empty where an input has none.
  std::vector<float> attention_input_offset, attention_output_offset, mlp_input_offset,
      mlp_product_offset;
};

struct RuntimeModel {
  ModelConfig config;
  std::vector<RuntimeLayer> layers;
  SharedArray<uint16_t> embedding;  // fp16 [vocabulary, width]
  SharedArray<uint16_t> head;       // the same; empty if tied
  HeadPanels packed_head;           // of a panel file; of 16 bits where there is none
  std::vector<float> final_gain;
  HadamardTable key_hadamard, down_hadamard;  // of size 0 where there is none
  kernels::CodeGrid key_grid, value_grid;
  int cache_bits = 4;  // of a code in memory: 4, 8 or 16

  std::span<const uint16_t> head_table() const { return config.tied ? embedding : head; }
};

// The model without its numbers: sizes, grids and online transforms. Error(unsupported) with the
// reason of why_not_in_integers.
std::unique_ptr<RuntimeModel> runtime_frame(const QuantizedParts& parts);

// Errors as runtime_frame.
std::unique_ptr<const RuntimeModel> make_runtime_model(const QuantizedParts& parts);

}  // namespace osp
