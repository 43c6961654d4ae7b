#include "osp/diagnose/attribution.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/eval/perplexity.h"
#include "osp/model/transformer.h"
#include "osp/ops/log_probabilities.h"

namespace osp {
namespace {

constexpr int64_t kRowsAtOnce = 256;  // rows of logits that exist at a time

// The model on fixed tokens: where it is at 16 bits, and how far a changed pass ends from there.
class FixedTokens {
 public:
  FixedTokens(const TurnedModel& model, const BitWidths& bits, const at::Tensor& tokens_BT)
      : store_(model.store()),
        tap_(store_, bits, model.online(), [](QuantSite, int64_t) { return false; }) {
    options_.tap = &tap_;
    states_.push_back(forward_embedding(store_, tokens_BT, options_));
    for (int64_t layer = 0; layer < store_.config.layers; ++layer) {
      states_.push_back(forward_block(store_, layer, states_.back(), options_));
    }
    for_rows(states_.back(),
             [&](const at::Tensor& logits) { log_p_.push_back(log_probabilities(logits)); });
  }

  // KL in nats per token with the selected quantizers, none of them in front of layer `first`.
  double divergence(int64_t first, const SiteSelection& selected) {
    tap_.select(selected);
    at::Tensor x = states_[static_cast<size_t>(first)];
    for (int64_t layer = first; layer < store_.config.layers; ++layer) {
      x = forward_block(store_, layer, x, options_);
    }
    double sum = 0;
    size_t chunk = 0;
    for_rows(x, [&](const at::Tensor& logits) {
      const at::Tensor& log_p = log_p_[chunk++];
      const at::Tensor difference = log_p - log_probabilities(logits);
      sum += log_p.exp().mul_(difference).sum(at::kDouble).item<double>();
    });
    return sum / static_cast<double>(x.size(0) * x.size(1));
  }

 private:
  template <class Use>
  void for_rows(const at::Tensor& x_BTD, const Use& use) {
    const at::Tensor rows = x_BTD.flatten(0, 1).unsqueeze(0);
    for (int64_t row = 0; row < rows.size(1); row += kRowsAtOnce) {
      const int64_t count = std::min(kRowsAtOnce, rows.size(1) - row);
      use(forward_head(store_, rows.narrow(1, row, count), options_).flatten(0, 1));
    }
  }

  const ParameterStore& store_;
  SiteQuantTap tap_;
  ForwardOptions options_;
  std::vector<at::Tensor> states_;  // in front of every layer, and behind the last
  std::vector<at::Tensor> log_p_;   // the predictions at 16 bits
};

// The first whole windows, [windows, window].
at::Tensor windows_of(std::span<const int64_t> tokens, const ModelConfig& config,
                      int64_t max_tokens) {
  const auto held = static_cast<int64_t>(tokens.size());
  if (held == 0) fail(ErrorCode::unsupported, "the data has no tokens; give a longer text");
  int64_t window = std::min(perplexity_window(config.context), held);
  if (max_tokens > 0) window = std::min(window, max_tokens);
  const int64_t windows =
      std::max<int64_t>(1, std::min(held, max_tokens > 0 ? max_tokens : held) / window);
  check_token_ids(tokens.first(static_cast<size_t>(windows * window)), config.vocabulary);
  return at::from_blob(const_cast<int64_t*>(tokens.data()), {windows, window}, at::kLong);
}

}  // namespace

Attribution attribute_damage(const TurnedModel& model, std::span<const int64_t> tokens,
                             const AttributionOptions& options) {
  const at::NoGradGuard no_grad;
  const ModelConfig& config = model.store().config;
  const at::Tensor tokens_BT = windows_of(tokens, config, options.max_tokens);
  FixedTokens fixed(model, options.bits, tokens_BT);
  const auto sites = static_cast<int64_t>(kQuantSites.size());
  const int64_t total = 1 + 2 * sites + config.layers * (2 + sites);
  int64_t done = 0;
  const auto measure = [&](int64_t first, const SiteSelection& selected) {
    const double kl = fixed.divergence(first, selected);
    if (options.progress) options.progress(++done, total);
    return kl;
  };
  Attribution result;
  result.tokens = tokens_BT.numel();
  result.all = measure(0, every_site);
  for (const QuantSite site : kQuantSites) {
    result.sites.push_back({site, measure(0, [&](QuantSite s, int64_t) { return s == site; }),
                            measure(0, [&](QuantSite s, int64_t) { return s != site; })});
  }
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    LayerCost cost;
    cost.layer = layer;
    cost.only = measure(layer, [&](QuantSite, int64_t l) { return l == layer; });
    cost.without = measure(0, [&](QuantSite, int64_t l) { return l != layer; });
    for (const QuantSite site : kQuantSites) {
      cost.only_site.push_back(
          measure(layer, [&](QuantSite s, int64_t l) { return s == site && l == layer; }));
    }
    result.layers.push_back(std::move(cost));
  }
  return result;
}

}  // namespace osp
