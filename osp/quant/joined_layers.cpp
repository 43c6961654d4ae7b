#include "osp/quant/joined_layers.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>

#include <algorithm>
#include <optional>

#include "osp/base/error.h"
#include "osp/model/parameter_role.h"
#include "osp/model/tap.h"

namespace osp {

std::vector<int64_t> joined_layers(const std::vector<ParameterSpec>& specs, int64_t parameter) {
  const ParameterSpec& own = specs.at(static_cast<size_t>(parameter));
  OSP_CHECK(block_linear(own.role), "{} is no linear layer of a block", own.name);
  const auto is_joined = [&](const ParameterSpec& other) {
    return other.kind == ParameterKind::matrix && block_linear(other.role) &&
           other.expert == own.expert && input_point(other.role) == input_point(own.role);
  };
  // The block's parameters stand around this one.
  int64_t first = parameter;
  while (first > 0 && specs[static_cast<size_t>(first - 1)].layer == own.layer) --first;
  std::vector<int64_t> joined;
  for (size_t i = static_cast<size_t>(first); i < specs.size() && specs[i].layer == own.layer; ++i)
    if (is_joined(specs[i])) joined.push_back(static_cast<int64_t>(i));
  return joined;
}

WeightGrid grid_of_layer(WeightGrid grid, const ParameterStore& store, int64_t parameter) {
  if (grid.kind != NumberKind::nvfp4) return grid;
  for (const int64_t layer : joined_layers(store.specs, parameter)) {
    const float largest = store.master(layer).abs().max().item<float>();
    grid.shared_largest = std::max(grid.shared_largest, largest);
  }
  return grid;
}

}  // namespace osp
