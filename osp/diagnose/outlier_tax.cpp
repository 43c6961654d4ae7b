#include "osp/diagnose/outlier_tax.h"

#include <fmt/format.h>

#include <cmath>

#include "osp/base/error.h"
#include "osp/eval/perplexity.h"

namespace osp {
namespace {

struct PartSelection {
  TaxPart OutlierTax::*part;
  SiteSelection selected;
};

// The quantizers that round for each part of the tax.
std::vector<PartSelection> parts_of(bool split) {
  std::vector<PartSelection> parts = {{&OutlierTax::all, every_site}};
  if (split) {
    parts.push_back(
        {&OutlierTax::readers, [](QuantSite site, int64_t) { return is_reader(site); }});
    parts.push_back(
        {&OutlierTax::generators, [](QuantSite site, int64_t) { return is_generator(site); }});
  }
  return parts;
}

// R2 of every layer, or none where the family clips values channel by channel.
std::vector<Rotation> value_rotations(const ModelConfig& config, uint64_t seed) {
  std::vector<Rotation> values;
  for (int64_t layer = 0; config.clip_qkv <= 0 && layer < config.layers; ++layer) {
    values.push_back(random_rotation(config.head_size, seed,
                                     fmt::format("R2 (values of layer {}): the head size", layer),
                                     false));
  }
  return values;
}

}  // namespace

double TaxPart::rotated_mean() const {
  double sum = 0;
  for (const double value : rotated) sum += value;
  return sum / static_cast<double>(rotated.size());
}

double TaxPart::deviation() const {
  if (rotated.size() < 2) return 0;
  const double mean = rotated_mean();
  double sum = 0;
  for (const double value : rotated) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(rotated.size() - 1));
}

double TaxPart::error() const {
  return deviation() / std::sqrt(static_cast<double>(rotated.size()));
}

OutlierTax measure_outlier_tax(TurnedModel& model, std::span<const int64_t> tokens,
                               const TaxOptions& options) {
  OSP_CHECK(options.rotations > 0, "{} rotations", options.rotations);
  OutlierTax tax;
  tax.bits = options.bits;
  tax.wide = options.wide;
  tax.refusal = model.why_no_rotation();
  const std::vector<PartSelection> parts = parts_of(options.split);
  const auto count = static_cast<int64_t>(parts.size());
  const int64_t total = 2 + count * (1 + (tax.refusal.empty() ? options.rotations : 0));
  int64_t done = 0;
  const auto measure = [&](const BitWidths& bits, const SiteSelection& selected,
                           std::vector<at::Tensor>& states) {
    const DivergenceResult result =
        model.divergence(tokens, options.max_tokens, bits, selected, &states);
    if (options.progress) options.progress(++done, total);
    return result;
  };
  // The model as it is.
  std::vector<at::Tensor> states;
  const DivergenceResult plain = measure(options.bits, every_site, states);
  tax.tokens = plain.tokens;
  tax.window = perplexity_window(model.store().config.context);
  tax.kl = plain.divergence;
  tax.state_error = plain.state_error;
  tax.added_nats = plain.changed_loss - plain.original_loss;
  tax.wide_kl = measure(options.wide, every_site, states).divergence;
  // Its own basis with R4.
  tax.down_block = model.add_down_hadamard();
  states.clear();
  for (const auto& [part, selected] : parts) {
    const DivergenceResult own = measure(options.bits, selected, states);
    (tax.*part).own = own.divergence;
    if (part != &OutlierTax::all) continue;
    tax.own_added_nats = own.changed_loss - own.original_loss;
    tax.own_state_error = own.state_error;
  }
  if (!tax.refusal.empty()) return tax;
  // Random bases.
  model.fold_norms();
  const ModelConfig& config = model.store().config;
  for (int64_t i = 0; i < options.rotations; ++i) {
    const uint64_t seed = options.seed + static_cast<uint64_t>(i);
    const Rotation residual =
        random_rotation(config.width, seed, "R1 (residual stream): the width", config.layer_norm());
    const std::vector<Rotation> values = value_rotations(config, seed);
    model.turn(residual, values);
    states.clear();
    for (const auto& [part, selected] : parts) {
      const DivergenceResult rotated = measure(options.bits, selected, states);
      (tax.*part).rotated.push_back(rotated.divergence);
      if (part != &OutlierTax::all) continue;
      tax.rotated_state_error += rotated.state_error / static_cast<double>(options.rotations);
    }
    model.turn_back(residual, values);
  }
  return tax;
}

}  // namespace osp
