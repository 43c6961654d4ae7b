#include "osp/ptq/rounding.h"

#include <array>

#include "osp/ptq/gptq.h"
#include "osp/ptq/rtn.h"

namespace osp {

std::span<const RoundingRow* const> roundings() {
  static constexpr std::array<const RoundingRow*, 4> kRows = {&kRtn, &kGptq, &kGptaq, &kQronos};
  return kRows;
}

const RoundingRow* find_rounding(std::string_view name) {
  for (const RoundingRow* row : roundings()) {
    if (row->name == name) return row;
  }
  return nullptr;
}

}  // namespace osp
