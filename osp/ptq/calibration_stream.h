// Calibration windows on their way through a model: the residual stream of all of them, taken
// through one block at a time, and within a block through one piece at a time, so that the layers
// of a piece can be quantized before any window continues. Every product of the forward pass is
// computed once, however many pieces there are; only the norms are computed twice.
//
// Tested by quantize_block_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/model/transformer.h"
#include "osp/ptq/calibration_store.h"
#include "osp/quant/bits.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/online_transforms.h"

namespace osp {

// Weights that take the place of a block's own, by parameter.
using Replacements = std::map<int64_t, at::Tensor>;

// The treatment of a block's tensors while calibration windows pass.
struct PassSettings {
  OnlineTransforms online = {};  // that the weights were rotated for
  BitWidths bits = {};           // of activations and cache; the weights are as they are
  const Replacements* replacements = nullptr;
  ActivationGrids grids = {};  // of `bits`
};

class CalibrationStream {
 public:
  // The embeddings of windows_NT by the tables of `outside` (a store of kOutsideBlocks).
  // `in_pieces`: input() and finish() will be used, which needs room for what lies between pieces.
  CalibrationStream(const ParameterStore& outside, const at::Tensor& windows_NT, bool in_pieces,
                    int64_t batch_tokens, ActivationSpace& space);

  int64_t windows() const { return residual_.windows(); }
  // Calls visit(first, count) for all windows, some at a time.
  void for_each_batch(const std::function<void(int64_t first, int64_t count)>& visit) const;

  // Takes all windows through a block. The tap, if any, sees the inputs of the linear layers after
  // the online transforms; bits and replacements are those of `settings`.
  void advance(const ParameterStore& block, int64_t layer, const PassSettings& settings,
               const std::function<void(TapPoint, const at::Tensor&, int64_t first)>& see = {});

  // The input of a block's linear layers at `point`, for some windows. Points are taken in the
  // order attention_input, attention_output, mlp_input, mlp_product, each for the same windows as
  // the one before; `settings` may change between them.
  at::Tensor input(const ParameterStore& block, int64_t layer, const PassSettings& settings,
                   TapPoint point, int64_t first, int64_t count);
  // The experts of these windows' tokens, between mlp_input and finish(); undefined
  // without experts.
  ExpertRouting routing(const ParameterStore& block, int64_t layer, const PassSettings& settings,
                        int64_t first, int64_t count) const;
  // Takes these windows out of the block, after mlp_product.
  void finish(const ParameterStore& block, int64_t layer, const PassSettings& settings,
              int64_t first, int64_t count);

 private:
  int64_t batch_;
  CalibrationStore residual_;
  CalibrationStore& products(const ParameterStore& block, int64_t layer);

  // Between pieces: the inputs of the output and of the down projection (that of experts [k T, F]),
  // and the attention branch of parallel families.
  std::optional<CalibrationStore> attention_, product_, expert_product_, branch_;
};

}  // namespace osp
