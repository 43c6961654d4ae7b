#include "osp/ptq/quantize_method.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "osp/base/error.h"
#include "osp/base/fields.h"

namespace osp {
namespace {

std::vector<std::string> sorted_names(const auto& rows) {
  std::vector<std::string> names;
  for (const auto* row : rows) names.emplace_back(row->name);
  std::sort(names.begin(), names.end());
  return names;
}

[[noreturn]] void fail_name(const std::string& name, const std::string& text) {
  std::vector<std::string> known = sorted_names(roundings());
  for (const std::string& transform : sorted_names(transforms())) known.push_back(transform);
  const std::string guess = nearest_name(name, known);
  fail(ErrorCode::usage, "--method {}: unknown part \"{}\"{}; known are {}, joined by +", text,
       name, guess.empty() ? "" : fmt::format(" (did you mean {}?)", guess),
       fmt::join(known, ", "));
}

// Takes the row that a part of the text names; one of each kind is allowed.
template <class Row>
void take_row(const Row*& place, const Row* row, const std::string& text) {
  if (place != nullptr) {
    fail(ErrorCode::usage, "--method {}: {} and {} exclude each other", text, place->name,
         row->name);
  }
  place = row;
}

std::string method_name(const TransformRow* transform, std::string_view rounding) {
  return transform == nullptr ? std::string(rounding)
                              : fmt::format("{}+{}", transform->name, rounding);
}

}  // namespace

bool QuantizeMethod::needs_calibration() const {
  return rounding->needs_calibration() || (transform != nullptr && transform->needs_calibration);
}

QuantizeMethod parse_method(const std::string& text) {
  const TransformRow* transform = nullptr;
  const RoundingRow* rounding = nullptr;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    const std::string name = text.substr(begin, end - begin);
    if (const TransformRow* row = find_transform(name)) {
      take_row(transform, row, text);
    } else if (const RoundingRow* other = find_rounding(name)) {
      take_row(rounding, other, text);
    } else {
      fail_name(name, text);
    }
    begin = end + 1;
  }
  if (rounding == nullptr) rounding = find_rounding(transform->default_rounding);
  return {method_name(transform, rounding->name), transform, rounding};
}

std::vector<std::string> table_methods() {
  std::vector<std::string> methods;
  for (const RoundingRow* row : roundings()) {
    if (row->alone_in_table) methods.emplace_back(row->name);
  }
  for (const TransformRow* row : transforms()) {
    for (const std::string_view rounding : row->table_roundings) {
      if (!rounding.empty()) methods.push_back(method_name(row, rounding));
    }
  }
  return methods;
}

std::string method_help() {
  const auto list = [](const auto& rows) {
    std::vector<std::string> entries;
    for (const auto* row : rows)
      entries.push_back(fmt::format("{} ({})", row->name, row->sentence));
    return fmt::format("{}", fmt::join(entries, "; "));
  };
  return fmt::format(
      "a transform, a rounding, or both joined by +, or all: a table of methods. Transforms: {}. "
      "Roundings: {}",
      list(transforms()), list(roundings()));
}

Profile parse_profile(const std::string& text) {
  if (text == "osp-paper") return Profile::osp_paper;
  if (text == "best") return Profile::best;
  fail(ErrorCode::usage, "--profile {}: expected osp-paper or best", text);
}

WeightSettings weight_settings(const QuantizeMethod& method, Profile profile, const BitWidths& bits,
                               int64_t group, bool symmetric) {
  WeightSettings settings;
  settings.rounding = method.rounding;
  if (bits.weights.is_float()) {
    settings.grid = float_weight_grid(bits.weights.kind);
  } else {
    settings.grid = {
        .bits = bits.weights.bits,
        .group = group,
        .symmetric = symmetric,
        .clipping_search = method.transform == nullptr || !method.transform->clips_weights,
        .fp16_scales = profile == Profile::best};
  }
  settings.gptq.act_order = method.rounding->always_act_order || profile == Profile::best;
  if (profile == Profile::best) {
    settings.calibration_bits = {16, bits.activations, bits.kv_cache};
  }
  return settings;
}

}  // namespace osp
