#include "osp/diagnose/cost_verdict.h"

#include <fmt/format.h>

#include <algorithm>

#include "osp/diagnose/cost_numbers.h"

namespace osp {
namespace {

// Whether `after` gives back of `before` what is worth it.
bool helps(double before, double after) { return after < (1 - kSmallShare) * before; }

bool rotation_helps(const OutlierTax& tax) {
  return tax.refusal.empty() && tax.all.share() > kSmallShare;
}

// The least divergence of what the verdict offers.
double least(const CostReport& report) {
  double kl = std::min(report.tax.kl, report.tax.all.own);
  if (rotation_helps(report.tax)) kl = std::min(kl, report.tax.all.rotated_mean());
  for (const Remedy& remedy : report.remedies) kl = std::min(kl, remedy.kl);
  return kl;
}

const SiteCost* find_site(const Attribution& attribution, QuantSite site) {
  for (const SiteCost& cost : attribution.sites) {
    if (cost.site == site) return &cost;
  }
  return nullptr;
}

// Energy of the token mean in what the readers get, the mean over inputs; NaN where none is known.
double reader_mean_share(const CostReport& report) {
  LayerMean mean;
  for (const auto& [input, share] : report.mean_shares) {
    const bool reader =
        input.first == TapPoint::attention_input || input.first == TapPoint::mlp_input;
    if (reader) mean.add(share);
  }
  return mean.value();
}

std::string tax_sentence(const OutlierTax& tax) {
  if (!tax.refusal.empty()) {
    return fmt::format(
        "What outliers cost: not measured, because no rotation of this model is exact: {}",
        tax.refusal);
  }
  const TaxPart& all = tax.all;
  return fmt::format(
      "What outliers cost at {}: {:.4f} ± {:.4f} nats a token, {} of the {:.4f} that rounding to "
      "nearest costs with a Hadamard in front of the down projection; a random rotation of the "
      "residual stream gives {} back.",
      tax.bits.text(), all.tax(), all.error(), percent(all.share()), all.own,
      all.share() > kSmallShare ? "that" : "nothing that counts");
}

std::string rest_sentence(const CostReport& report) {
  const SiteCost* product = find_site(report.attribution, QuantSite::mlp_product);
  LayerMean gain;
  for (const LinearNoise& one : report.linears) gain.add(one.noise_gain);
  std::string text = "What else costs:";
  if (product != nullptr) {
    text += fmt::format(
        " of {:.4f} nats without any help the input of the down projection alone costs {:.4f}, "
        "weights {:.4f}, the cache {:.4f};",
        report.attribution.all, product->only,
        find_site(report.attribution, QuantSite::weights)->only,
        find_site(report.attribution, QuantSite::cache)->only);
  }
  return text + fmt::format(
                    " a linear layer passes on {:.2f} of the relative noise at its input (mean "
                    "noise gain), and the last state is off by {} of its energy (R_L).",
                    gain.value(), percent(report.tax.state_error));
}

std::string method_sentence(const OutlierTax& tax) {
  const bool rotate = rotation_helps(tax);
  if (!rotate && !helps(tax.kl, tax.all.own)) {
    return fmt::format(
        "What to do: `osp quantize --method gptq`; {} gives back more than {} of the {:.4f} nats "
        "that rounding to nearest costs, and better rounding costs less.",
        tax.refusal.empty() ? "neither a Hadamard nor a rotation behind it" : "no Hadamard",
        percent(kSmallShare), tax.kl);
  }
  return fmt::format(
      "What to do: `osp quantize --method {}`; rounding to nearest in that basis costs {:.4f} nats "
      "in place of {:.4f}, and better rounding less.",
      rotate ? "quarot+gptq" : "ffn-hadamard+gptq", rotate ? tax.all.rotated_mean() : tax.all.own,
      tax.kl);
}

// The remedies come one by one and then together; both must be worth more than the better one.
std::string remedy_sentence(const CostReport& report) {
  const Remedy* best = nullptr;
  double before = report.tax.kl;
  for (const Remedy& remedy : report.remedies) {
    const bool both = remedy.groups.any() && remedy.offset != MeanOffset::none;
    if (!helps(both ? before : report.tax.kl, remedy.kl) || remedy.kl >= before) continue;
    best = &remedy;
    before = remedy.kl;
  }
  if (report.remedies.empty()) return "";
  if (best == nullptr) {
    std::string tried;
    for (const Remedy& remedy : report.remedies) {
      tried += fmt::format("{}`{}` {:.4f}", tried.empty() ? "" : ", ", remedy.options(), remedy.kl);
    }
    return fmt::format("Without a transform: nothing that counts ({}, in place of {:.4f}).", tried,
                       report.tax.kl);
  }
  std::string text =
      fmt::format("Without a transform: `osp quantize {}`; rounding to nearest costs {:.4f} nats",
                  best->options(), best->kl);
  if (best->offset != MeanOffset::none) {
    text += fmt::format(
        ", because the mean over tokens is {} of the energy of what q, k, v, gate "
        "and up read",
        percent(reader_mean_share(report)));
  }
  if (best->groups.any()) {
    text += fmt::format("; a Hadamard in place of the groups leaves {:.4f}", report.tax.all.own);
  }
  return text + ".";
}

std::string bits_sentence(const CostReport& report) {
  const OutlierTax& tax = report.tax;
  const std::string limit =
      fmt::format("{} nats ({:.0f} % of perplexity)", kBearableNats, 100 * kBearableNats);
  const std::string bits = tax.bits.text(), wide = tax.wide.text();
  const double best = least(report);
  if (best <= kBearableNats) {
    return fmt::format(
        "Which bits: `--bits {}`; the best of these costs {:.4f} nats, less than {}{}.", bits, best,
        limit,
        bits == wide ? "" : fmt::format("; {} without any of them {:.4f}", wide, tax.wide_kl));
  }
  if (tax.wide_kl <= kBearableNats) {
    return fmt::format(
        "Which bits: `--bits {}`, which costs {:.4f} nats as the model is; at {} the best of these "
        "costs {:.4f}, more than {}.",
        wide, tax.wide_kl, bits, best, limit);
  }
  std::string text =
      fmt::format("Which bits: more; the best of these costs {:.4f} nats at {}", best, bits);
  if (bits != wide) text += fmt::format(", and {} as the model is {:.4f}", wide, tax.wide_kl);
  text += fmt::format(", more than {}", limit);
  const SiteCost* weights = find_site(report.attribution, QuantSite::weights);
  if (weights == nullptr || weights->only <= kBearableNats) return text + ".";
  return text + fmt::format(
                    "; weights alone cost {:.4f}, so give them 8 bits, or see what gptq with "
                    "`--group 64` leaves of that.",
                    weights->only);
}

}  // namespace

std::vector<std::string> cost_verdict(const CostReport& report) {
  std::vector<std::string> sentences = {tax_sentence(report.tax), rest_sentence(report),
                                        method_sentence(report.tax)};
  if (const std::string text = remedy_sentence(report); !text.empty()) sentences.push_back(text);
  sentences.push_back(bits_sentence(report));
  return sentences;
}

}  // namespace osp
