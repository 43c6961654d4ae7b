// A model whose basis can be changed and changed back, in place: the same function at 16 bits,
// other numbers for a grid to round.
//
// Tested by outlier_tax_test.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "osp/diagnose/quant_site.h"
#include "osp/eval/divergence.h"
#include "osp/ptq/rotation.h"

namespace osp {

class TurnedModel {
 public:
  // Takes the model (fp32 or fp64) and fuses it. It has no online transforms but R3.
  explicit TurnedModel(ParameterStore store);

  const ParameterStore& store() const { return store_; }
  const OnlineTransforms& online() const { return online_; }

  // R4 with the largest block of which a Hadamard matrix is known; returns the block.
  int64_t add_down_hadamard();
  // "" where R1 is exact once norms are folded, otherwise the reason.
  std::string why_no_rotation() const;
  void fold_norms();
  // Norms must be folded. `values` may be empty.
  void turn(const Rotation& residual, const std::vector<Rotation>& values = {});
  // Undoes turn() with the same arguments, but for rounding.
  void turn_back(const Rotation& residual, const std::vector<Rotation>& values = {});

  // The divergence of the model rounded at the selected sites from the model at 16 bits, both in
  // the present basis. `states` as DivergenceOptions::original_states; where they are not known
  // yet, the error of the last state is measured too.
  DivergenceResult divergence(std::span<const int64_t> tokens, int64_t max_tokens,
                              const BitWidths& bits, const SiteSelection& selected,
                              std::vector<at::Tensor>* states = nullptr) const;

 private:
  ParameterStore store_;
  OnlineTransforms online_;
};

// A random rotation of the order: Hadamard with random signs where a matrix is known, else the
// orthogonal factor of a Gaussian matrix. Keeps the mean over channels where `keeps_mean`, which
// needs a Hadamard matrix (Error(unsupported)).
Rotation random_rotation(int64_t size, uint64_t seed, const std::string& name, bool keeps_mean);

}  // namespace osp
