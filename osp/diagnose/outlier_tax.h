// The outlier tax: what a model's outliers alone cost at few bits.
//
//   tax = KL(own basis) − KL(rotated basis)        nats per token
//
// KL is the mean Kullback–Leibler divergence of the rounded model's predictions from those of the
// same model at 16 bits, rounding to nearest. Both terms have the Hadamard in front of the down
// projection (R4), which removes the product's own heavy tail. The rotated basis is QuaRot's: the
// gains of norms folded, a random rotation R1 of the residual stream and R2 of the values of each
// head. At 16 bits it is the same function; in a random basis no channel is an outlier. So the
// difference is what the choice of the basis costs, and nothing else: not how much noise the
// model's matrices pass on, nor the product. The share is tax / KL(own basis).
//
// Where only the readers (inputs of q, k, v, gate and up) or the generators (inputs of o and down)
// are rounded, the same difference splits the tax; weights and cache then stay exact. Source of the
// rotations: Ashkboos et al., "QuaRot", 2024.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "osp/diagnose/turned_model.h"
#include "osp/quant/bits.h"

namespace osp {

struct TaxOptions {
  BitWidths bits{4, 4, 4};
  int64_t rotations = 3;
  uint64_t seed = 0;        // of the first rotation; the next ones count up
  int64_t max_tokens = 0;   // 0: all; otherwise as many whole windows as fit, at least one
  bool split = true;        // measure readers and generators too
  BitWidths wide{4, 8, 8};  // measured in the own basis beside `bits`
  std::function<void(int64_t done, int64_t total)> progress = {};  // measurements
};

// The divergences of one selection of quantizers, in nats per token.
struct TaxPart {
  double own = 0;               // in the own basis with R4
  std::vector<double> rotated;  // one per rotation

  double rotated_mean() const;
  double deviation() const;  // of one rotation; 0 for a single one
  double error() const;      // standard error of the mean over rotations
  double tax() const { return own - rotated_mean(); }
  double share() const { return tax() / own; }
};

struct OutlierTax {
  std::string refusal;  // why it was not measured; "" where it was
  BitWidths bits, wide;
  int64_t tokens = 0;         // scored
  int64_t window = 0;         // tokens of a window
  int64_t down_block = 0;     // of R4; 0: one block
  double added_nats = 0;      // of loss, own basis without R4
  double kl = 0;              // own basis without R4
  double state_error = 0;     // R_L of the same (osp/eval/divergence.h)
  double wide_kl = 0;         // the same at the widths `wide`
  double own_added_nats = 0;  // of loss, own basis with R4
  // R_L with R4, in the own basis and as the mean over the rotated ones.
  double own_state_error = 0, rotated_state_error = 0;
  TaxPart all, readers, generators;
};

// Leaves the model in its own basis with norms folded and R4 applied. Where no rotation of the
// model is exact, `refusal` says why and the rest is as far as it can be measured.
OutlierTax measure_outlier_tax(TurnedModel& model, std::span<const int64_t> tokens,
                               const TaxOptions& options = {});

}  // namespace osp
