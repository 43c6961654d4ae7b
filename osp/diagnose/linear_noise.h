// Noise in linear layers: how much of it the matrices pass on, and how much of the signal at their
// inputs is the same for every token.
//
// With W a linear layer [out, in] and x its inputs:
//
//   noise gain    ‖W‖_F² · E‖x‖² / (in · E‖W x‖²)     white noise of relative power ε at the input
//                 leaves with relative power gain · ε. 1: signal and noise are treated alike; less:
//                 the signal lies in directions that W amplifies (low-rank matrices absorb noise)
//   stable rank   ‖W‖_F² / ‖W‖₂²
//   mean share    ‖E x‖² / E‖x‖²     energy of the mean over tokens
//   informative SQNR = SQNR + 10 lg(1 − mean share)   dB: the mean removed from the signal, because
//                 a constant informs about no token
//
// E is the mean over the tokens of the data. "Alignment ratio" in Vlassis et al., "Beyond
// Outliers", 2025, is akin to the gain.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "osp/quant/activation_grids.h"
#include "osp/quant/fake_quant.h"

namespace osp {

struct LinearNoise {
  std::string name;
  ParameterRole role;
  int64_t layer = 0;
  double noise_gain = 0, stable_rank = 0;
};

// Watches the inputs of the linear layers in the blocks as the layers get them.
class LinearNoiseTap : public LinearInputTap {
 public:
  // `store` must outlive the tap.
  LinearNoiseTap(const ParameterStore& store, const OnlineTransforms& online);

  bool wants_linear() const override { return store_.config.has_experts(); }
  void linear_input(std::span<const int64_t> parameters, const at::Tensor& x) override;

  // NaN where the inputs or outputs were all zero.
  std::vector<LinearNoise> linears() const;
  // Energy of the mean over tokens as a share of all energy, per input.
  std::map<std::pair<TapPoint, int64_t>, double> mean_shares() const;
  // The means themselves of what q, k, v and gate, up read.
  InputOffsets reader_means() const;

 protected:
  void see(TapPoint point, int64_t layer, const at::Tensor& input) override;

 private:
  struct InputSums {
    at::Tensor sum;  // fp64 [in]
    double energy = 0, rows = 0;
  };
  const ParameterStore& store_;
  std::map<std::pair<TapPoint, int64_t>, InputSums> inputs_;
  // By parameter; the second for experts, each of which has inputs of its own.
  std::map<int64_t, double> output_energy_, expert_energy_;
};

// Runs the first tokens, whole windows of perplexity, through the model and its watchers.
void watch_tokens(const ParameterStore& store, std::span<const int64_t> tokens, int64_t max_tokens,
                  Tap& tap);

// ‖w‖_F² / ‖w‖₂², the spectral norm by power iteration to 1e-5.
double stable_rank(const at::Tensor& w);

// SQNR in dB of what differs from token to token.
double informative_sqnr_db(double sqnr_db, double mean_share);

}  // namespace osp
