#include "osp/ptq/transform.h"

#include "osp/ptq/awq.h"
#include "osp/ptq/ffn_hadamard.h"
#include "osp/ptq/quarot.h"
#include "osp/ptq/smooth_quant.h"
#include "osp/ptq/spinquant_transform.h"

namespace osp {

std::span<const TransformRow* const> transforms() {
  static constexpr std::array<const TransformRow*, 6> kRows = {
      &kFfnHadamard, &kQuaRot, &kSpinQuant, &kSpinQuantKurtosis, &kSmoothQuant, &kAwq};
  return kRows;
}

const TransformRow* find_transform(std::string_view name) {
  for (const TransformRow* row : transforms()) {
    if (row->name == name) return row;
  }
  return nullptr;
}

}  // namespace osp
