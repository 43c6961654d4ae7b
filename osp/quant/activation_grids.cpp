#include "osp/quant/activation_grids.h"

#include <algorithm>
#include <array>
#include <vector>

#include "osp/base/error.h"
#include "osp/quant/float_grid.h"

namespace osp {
namespace {

void check_divides(int64_t group, int64_t size, const char* option, const char* what) {
  if (size % group == 0) return;
  fail(ErrorCode::usage, "{} {}: groups of {} do not divide the {} {}; choose a group that does",
       option, group, group, what, size);
}

}  // namespace

int64_t activation_group(const ActivationGroups& groups, TapPoint point,
                         const ModelConfig& config) {
  const auto or_all = [](int64_t group, int64_t all) { return group > 0 ? group : all; };
  switch (point) {
    case TapPoint::attention_output:
      return std::min(or_all(groups.inputs, config.head_size), config.head_size);
    case TapPoint::mlp_product:
      return or_all(groups.down, or_all(groups.inputs, config.inner));
    default:
      return or_all(groups.inputs, config.width);
  }
}

ActivationGroups best_activation_groups(const ModelConfig& config) {
  constexpr int64_t kGroup = 32;
  std::vector<int64_t> sizes = config.inner_sizes();
  sizes.push_back(config.width);
  const bool divides = config.head_size % std::min(kGroup, config.head_size) == 0 &&
                       std::ranges::all_of(sizes, [](int64_t size) { return size % kGroup == 0; });
  return {.inputs = divides ? kGroup : 0};
}

void check_activation_groups(const ActivationGroups& groups, const ModelConfig& config) {
  if (groups.inputs > 0) {
    check_divides(groups.inputs, config.width, "--activation-group", "width");
    check_divides(std::min(groups.inputs, config.head_size), config.head_size, "--activation-group",
                  "head size");
  }
  for (const int64_t inner : config.inner_sizes()) {
    if (groups.down > 0) {
      check_divides(groups.down, inner, "--down-group", "inner size");
    } else if (groups.inputs > 0) {
      check_divides(groups.inputs, inner, "--activation-group", "inner size");
    }
  }
}

void check_float_blocks(const BitWidths& bits, const ModelConfig& config) {
  const auto check = [&](const NumberFormat& format, int64_t size, const char* what) {
    const int64_t block = format.quantizes() ? block_size(format.kind) : 0;
    if (block == 0 || size % block == 0) return;
    fail(ErrorCode::usage,
         "--bits {}: blocks of {} ({}) do not divide the {} {}; choose another format", bits.text(),
         block, format.text(), what, size);
  };
  for (const NumberFormat& format : {bits.weights, bits.activations}) {
    check(format, config.width, "width");
    check(format, config.heads * config.head_size, "size of all heads");
    for (const int64_t inner : config.inner_sizes()) check(format, inner, "inner size");
  }
  check(bits.kv_cache, config.head_size, "head size");
}

MeanOffset parse_mean_offset(const std::string& text) {
  for (const MeanOffset inputs : {MeanOffset::none, MeanOffset::residual, MeanOffset::all}) {
    if (text == mean_offset_name(inputs)) return inputs;
  }
  fail(ErrorCode::usage, "--mean-offset {}: expected none, residual or all", text);
}

std::string mean_offset_name(MeanOffset inputs) {
  switch (inputs) {
    case MeanOffset::none:
      return "none";
    case MeanOffset::residual:
      return "residual";
    case MeanOffset::all:
      return "all";
  }
  OSP_CHECK(false, "unknown inputs");
}

std::span<const TapPoint> offset_points(MeanOffset inputs) {
  static constexpr std::array kResidual = {TapPoint::attention_input, TapPoint::mlp_input};
  static constexpr std::array kAll = {TapPoint::attention_input, TapPoint::attention_output,
                                      TapPoint::mlp_input, TapPoint::mlp_product};
  switch (inputs) {
    case MeanOffset::none:
      return {};
    case MeanOffset::residual:
      return kResidual;
    case MeanOffset::all:
      return kAll;
  }
  OSP_CHECK(false, "unknown inputs");
}

}  // namespace osp
