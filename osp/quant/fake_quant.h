// Fake quantization of a whole model by taps, profile `osp-paper` with round-to-nearest weights:
// what a W4A4KV4 engine would compute, in floating point.
//
//   weights of linear layers   symmetric per output channel, clipping search (embedding, head and
//                              EmbProj, which is multiplied into them, stay as they are)
//   inputs of q k v, gate up, down   asymmetric per token, range contains 0, or a static scale;
//                              the input of down after its online Hadamard, where the model has one
//   input of o                 asymmetric per head of a token, free range
//                              (both: in smaller groups or less an offset, where the grids say so)
//   values                     asymmetric per head of a token, free range
//   keys                       after RoPE and a Hadamard, asymmetric per head of a token, range
//                              contains 0; queries get the same Hadamard and are not quantized
//
// The grids are those of osp/quant/grid.h, in fp32 (the reference computes in bf16). Floating-point
// formats (osp/quant/float_grid.h) have no search, no choice of groups and no free ranges, and keys
// are not turned: weights become what a quantized folder would hold, inputs of linear layers are
// rounded by tokens, keys and values by heads of a token. A static scale is then that of FP8, or
// the constant g of NVFP4.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>

#include "osp/model/parameters.h"
#include "osp/model/tap.h"
#include "osp/quant/activation_grids.h"
#include "osp/quant/bits.h"
#include "osp/quant/grid.h"
#include "osp/quant/online_transforms.h"

namespace osp {

class FakeQuantTap : public Tap {
 public:
  // `store` must outlive the tap and keep its values: each weight is quantized once, when it is
  // first used (with 16 bits for weights the store's values are used, which is how a model that was
  // quantized before runs). `online` is what the store's weights were rotated for. Error(usage) if
  // blocks of a floating-point format do not divide what they are cut from; Error(unsupported) if
  // the cache holds integers and no Hadamard matrix of the head size is known, or none of the inner
  // size where `online` needs one.
  FakeQuantTap(const ParameterStore& store, const BitWidths& bits,
               const OnlineTransforms& online = {}, const ActivationGrids& grids = {});

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;
  bool wants_weights() const override { return bits_.quantizes_weights(); }
  at::Tensor weight(int64_t parameter, const at::Tensor& w) override;

  const BitWidths& bits() const { return bits_; }

 protected:
  // A weight [out, in] on its integer grid.
  virtual at::Tensor quantized_weight(const at::Tensor& w) const;

 private:
  at::Tensor quantized_input(TapPoint point, int64_t layer, const at::Tensor& x) const;
  at::Tensor on_grid(TapPoint point, int64_t layer, const at::Tensor& x) const;
  at::Tensor in_cache(const at::Tensor& x, GroupRange range) const;

  const ParameterStore& store_;
  BitWidths bits_;
  OnlineTransforms online_;
  ActivationGrids grids_;
  std::map<int64_t, at::Tensor> weights_;  // by parameter
};

// Base of taps that look at the inputs of linear layers as the layers get them: after the online
// transforms (with which the pass continues) and without quantizers.
class LinearInputTap : public Tap {
 public:
  LinearInputTap(const ParameterStore& store, const OnlineTransforms& online)
      : inner_(store, {}, online) {}

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;

 protected:
  // Gets the input of the linear layers at this point, [B, T, in].
  virtual void see(TapPoint point, int64_t layer, const at::Tensor& input) = 0;

 private:
  FakeQuantTap inner_;
};

}  // namespace osp
