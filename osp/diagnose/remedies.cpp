#include "osp/diagnose/remedies.h"

#include <fmt/format.h>

#include <algorithm>

#include "osp/eval/divergence.h"
#include "osp/quant/fake_quant.h"

namespace osp {

std::string Remedy::options() const {
  std::string text;
  if (groups.down > 0) text = fmt::format("--down-group {}", groups.down);
  if (offset == MeanOffset::none) return text;
  return text + (text.empty() ? "" : " ") + "--mean-offset " + mean_offset_name(offset);
}

int64_t remedy_group(const ModelConfig& config) {
  const std::vector<int64_t> inner = config.inner_sizes();
  for (int64_t group = 64; group >= 8; group /= 2) {
    if (std::ranges::all_of(inner, [&](int64_t size) { return size % group == 0; })) return group;
  }
  return 0;
}

std::vector<Remedy> measure_remedies(const TurnedModel& model, std::span<const int64_t> tokens,
                                     const RemedyOptions& options) {
  if (!options.bits.quantizes_activations() || options.bits.activations.is_float()) return {};
  // What is tried.
  const ActivationGroups groups{.down = remedy_group(model.store().config)};
  std::vector<Remedy> remedies;
  if (groups.any()) remedies.push_back({.groups = groups});
  if (!options.means.empty()) remedies.push_back({.offset = MeanOffset::residual});
  if (remedies.size() == 2) {
    remedies.push_back({.groups = groups, .offset = MeanOffset::residual});
  }
  // All beside one model at 16 bits.
  std::vector<at::Tensor> states;
  FakeQuantTap exact(model.store(), {}, model.online());
  for (Remedy& remedy : remedies) {
    ActivationGrids grids{.groups = remedy.groups};
    if (remedy.offset != MeanOffset::none) grids.offsets = options.means;
    FakeQuantTap rounded(model.store(), options.bits, model.online(), grids);
    DivergenceOptions divergence;
    divergence.max_tokens = options.max_tokens;
    divergence.original_tap = &exact;
    divergence.changed_tap = &rounded;
    divergence.original_states = &states;
    remedy.kl = measure_divergence(model.store(), model.store(), tokens, divergence).divergence;
    if (options.progress) {
      options.progress(&remedy - remedies.data() + 1, static_cast<int64_t>(remedies.size()));
    }
  }
  return remedies;
}

}  // namespace osp
