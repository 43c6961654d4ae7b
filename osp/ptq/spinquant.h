// SpinQuant: the rotations R1 and R2 of QuaRot are learned instead of drawn. Objectives:
//
//   end_to_end   cross-entropy of the fake-quantized model, gradients straight through the
//                rounding; weights that GPTQ will round keep 16 bits meanwhile
//   kurtosis     layer by layer, no backward pass through the model: R1 minimises the mean kurtosis
//                m₄ / m₂² of the rotated inputs of q, k, v and of gate and up, R2 that of the
//                rotated values of its layer (KurTail)
//
// In models with LayerNorm R1 begins as a rotation that keeps the mean over channels and stays one.
// Both begin with random Hadamard matrices and go 100 steps of Cayley descent (osp/ptq/cayley.h)
// at a rate of 1.5 that falls to 0 by a half cosine. Sources: Liu et al., "SpinQuant", 2024;
// Akhondzadeh et al., "KurTail", 2025.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "osp/base/fields.h"
#include "osp/ptq/rotation.h"
#include "osp/quant/activation_grids.h"
#include "osp/quant/bits.h"

namespace osp {

enum class SpinObjective { end_to_end, kurtosis };

// How the rotations are learned; the defaults are the paper's.
struct SpinQuantSchedule {
  int64_t steps = 100;
  int64_t batch = 8;   // calibration windows per step
  int64_t length = 0;  // tokens used from each window; 0: all

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("SpinQuant");
    visit("spin_steps", self.steps, Range{1, 100000},
          "number of descent steps in which spinquant learns its rotations");
    visit("spin_batch", self.batch, Range{1, 1 << 20},
          "number of calibration windows per SpinQuant step");
    visit("spin_length", self.length, Range{0, 1 << 20},
          "number of tokens that SpinQuant uses from each calibration window; 0 = all");
  }
};

struct SpinQuantOptions {
  SpinObjective objective = SpinObjective::end_to_end;
  BitWidths bits = {16, 4, 4};  // during training; of the kurtosis objective: unused
  ActivationGroups groups = {};
  double rate = 1.5;
  int64_t steps = SpinQuantSchedule().steps;
  int64_t batch = SpinQuantSchedule().batch;  // calibration windows per step
  uint64_t seed = 0;
  int64_t down_block = 0;    // of R4
  int64_t kept_rows = 4096;  // of each kind of input, for the kurtosis objective
  std::function<void(int64_t done, int64_t total, double objective)> progress = {};
};

struct SpinQuantResult {
  RotationPlan plan;               // norms, R1, R2 and R4
  std::vector<double> objectives;  // of every step, before it
  double largest_error = 0.0;      // of orthogonality after a step, before it was corrected
  int64_t num_corrections = 0;
};

// Learns the rotations of a fused store, which is not changed, on calibration windows [N, T]; each
// step takes the next `batch` of them in turn. Needs a copy of the weights and the graph of one
// batch. Error(unsupported) as rotate_model(); Error(diverged) if the objective is not finite.
SpinQuantResult learn_rotations(const ParameterStore& store, const at::Tensor& windows_NT,
                                const SpinQuantOptions& options = {});

// Mean over rows of m₄ / m₂² of x · Q, where m are raw moments of a row (3 for a Gaussian), and its
// gradient with respect to Q times the row's length. x [n, d], Q [d, d], fp64.
struct KurtosisObjective {
  double value = 0.0;
  at::Tensor gradient;
};
KurtosisObjective rotated_kurtosis(const at::Tensor& x, const at::Tensor& q);

}  // namespace osp
