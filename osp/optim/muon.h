// Muon: momentum orthogonalised by Newton–Schulz (arXiv 2506.19697, the first part of OSP).
//
//   buffer ← g + β buffer;   u = g + β buffer (Nesterov; else u = buffer)
//   w ← (1 − lr·decay) w − lr · s · NewtonSchulz(u),  s = 0.2 sqrt(max(rows, cols))
//
// With optim.momentum_bits = 8 the buffer is kept in 8 bits between the steps
// (osp/optim/quantized_momentum.h); u is made of the fp32 buffer, before it is rounded.
#pragma once

#include <string>

#include "osp/base/fields.h"
#include "osp/optim/newton_schulz.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/quantized_momentum.h"

namespace osp {

struct MuonOptions {
  int64_t momentum_bits = 32;
  NewtonSchulzOptions newton_schulz = {};
  bool per_head = false;
  std::string update_scale = "match-adam";

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("momentum_bits", self.momentum_bits, Range{8, 32},
          "Muon: bits in which the momentum of matrices is kept, 32 or 8 (codes with a scale per "
          "256 numbers)");
    NewtonSchulzOptions::fields(visit, self.newton_schulz);
    visit("per_head", self.per_head,
          "Muon: orthogonalise query, key and value projections head by head");
    visit("update_scale", self.update_scale, Choices{{"match-adam", "original", "spectral"}},
          "Muon: 0.2 sqrt(max(rows, columns)), sqrt(max(1, rows/columns)) or sqrt(rows/columns)");
  }
};

// One step on one matrix, op by op, on any device: the twin of the step. Changes `weight` and
// `buffer` in place.
void muon_step_reference(at::Tensor& weight, const at::Tensor& gradient, at::Tensor& buffer,
                         const StepValues& values, const NewtonSchulz& settings, double scale,
                         bool nesterov);
// The twin of the step with momentum in 8 bits.
void muon_step_reference(at::Tensor& weight, const at::Tensor& gradient,
                         QuantizedMomentum& momentum, const StepValues& values,
                         const NewtonSchulz& settings, double scale, bool nesterov);

// The state is one fp32 buffer per bank, GROUP.BANK.momentum, or with 8 bits its momentum_codes
// (int8, the bank's shape) and momentum_scales (fp32 [matrices, blocks]).
extern const OptimizerRow kMuonRow;

}  // namespace osp
