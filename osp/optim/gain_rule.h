// The rule for gains of norms (arXiv 2506.19697, the first part of OSP), for vectors and scalars:
// momentum of norm 1, scaled as Muon scales a matrix of one row.
//
//   buffer ← g + β buffer;   u = g + β buffer (Nesterov; else u = buffer)
//   w ← (1 − lr·decay) w − lr · 0.2 sqrt(length) · u / (‖u‖ + 1e-8)
//
// Each gain is divided by its own norm, so that a scalar moves by 0.2 lr in the direction of −u.
#pragma once

#include <string>

#include "osp/base/fields.h"
#include "osp/optim/optimizer.h"

namespace osp {

struct GainOptions {
  std::string rule = "auto";

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit(
        "gain_rule", self.rule, Choices{{"auto", "reference", "adam", "frozen"}},
        "norm gains: reference (normalised momentum), adam, frozen; auto: reference under osp and "
        "muon, else the optimizer of all vectors");
  }
};

// The state is one fp32 buffer per bank, GROUP.BANK.momentum.
extern const OptimizerRow kGainRow;

}  // namespace osp
