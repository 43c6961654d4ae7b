// Muon: momentum orthogonalised by Newton–Schulz (PAPER: part 1 of OSP), and the rule for gains.
//
//   buffer ← g + β buffer;   u = g + β buffer (Nesterov; else u = buffer)
//   matrices:  w ← (1 − lr·decay) w − lr · s · NewtonSchulz(u),  s = 0.2 sqrt(max(rows, cols))
//   gains:     w ← (1 − lr·decay) w − lr · 0.2 sqrt(length) · u / (‖u‖ + 1e-8)
//
// With optim.momentum_bits = 8 the matrices' buffer is kept in 8 bits between the steps
// (osp/optim/quantized_momentum.h); u is made of the fp32 buffer, before it is rounded.
#pragma once

#include <memory>

#include "osp/optim/config.h"
#include "osp/optim/newton_schulz.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/quantized_momentum.h"
#include "osp/optim/routing.h"

namespace osp {

// The factor s of an update for a parameter of this shape in that group; 0 for frozen, 1 for the
// others.
double update_scale(const OptimizerGroup& group, const std::vector<int64_t>& shape,
                    const OptimConfig& config);

// One step on one matrix, op by op, on any device: the twin of the step. Changes `weight` and
// `buffer` in place.
void muon_step_reference(at::Tensor& weight, const at::Tensor& gradient, at::Tensor& buffer,
                         const StepValues& values, const NewtonSchulz& settings, double scale,
                         bool nesterov);
// The same with momentum in 8 bits.
void muon_step_reference(at::Tensor& weight, const at::Tensor& gradient,
                         QuantizedMomentum& momentum, const StepValues& values,
                         const NewtonSchulz& settings, double scale, bool nesterov);

// The state is one fp32 buffer per bank, GROUP.BANK.momentum, or for make_muon with 8 bits its
// momentum_codes (int8, the bank's shape) and momentum_scales (fp32 [matrices, blocks]). `banks`
// must outlive the optimizer.
std::unique_ptr<Optimizer> make_muon(std::vector<Bank*> banks, const OptimizerGroup& group,
                                     const OptimConfig& config);
// Bytes of make_muon's state for a matrix.
double muon_state_bytes(int64_t rows, int64_t cols, const OptimizerGroup& group,
                        const OptimConfig& config);
std::unique_ptr<Optimizer> make_gain_rule(std::vector<Bank*> banks, const OptimizerGroup& group,
                                          const OptimConfig& config);

}  // namespace osp
