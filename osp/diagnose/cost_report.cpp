#include "osp/diagnose/cost_report.h"

#include <algorithm>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/base/json_number.h"
#include "osp/diagnose/cost_numbers.h"
#include "osp/diagnose/cost_verdict.h"
#include "osp/eval/outlier_summary.h"
#include "osp/measure/tap_chain.h"

namespace osp {
namespace {

Json tax_part_json(const TaxPart& part) {
  Json json;
  json["own"] = finite_or_null(part.own);
  if (part.rotated.empty()) return json;
  json["rotated"] = finite_or_null(part.rotated_mean());
  json["rotated_deviation"] = finite_or_null(part.deviation());
  json["rotated_values"] = Json::array();
  for (const double value : part.rotated) json["rotated_values"].push_back(finite_or_null(value));
  json["tax"] = finite_or_null(part.tax());
  json["error"] = finite_or_null(part.error());
  json["share"] = finite_or_null(part.share());
  return json;
}

Json attribution_json(const Attribution& attribution) {
  Json json;
  json["tokens"] = attribution.tokens;
  json["all"] = finite_or_null(attribution.all);
  json["sites"] = Json::array();
  for (const SiteCost& cost : attribution.sites) {
    json["sites"].push_back({{"site", quant_site_name(cost.site)},
                             {"only", finite_or_null(cost.only)},
                             {"without", finite_or_null(cost.without)}});
  }
  json["layers"] = Json::array();
  for (const LayerCost& cost : attribution.layers) {
    Json only;
    for (size_t i = 0; i < kQuantSites.size(); ++i) {
      only[quant_site_name(kQuantSites[i])] = finite_or_null(cost.only_site[i]);
    }
    json["layers"].push_back({{"layer", cost.layer},
                              {"only", finite_or_null(cost.only)},
                              {"without", finite_or_null(cost.without)},
                              {"only_site", only}});
  }
  return json;
}

Json inputs_json(const CostReport& report) {
  Json list = Json::array();
  for (const auto& [key, share] : report.mean_shares) {
    const double sqnr = report.noise.at(key).sqnr_db();
    list.push_back({{"point", tap_point_name(key.first)},
                    {"layer", key.second},
                    {"mean_share", finite_or_null(share)},
                    {"sqnr_db", finite_or_null(sqnr)},
                    {"informative_sqnr_db", finite_or_null(informative_sqnr_db(sqnr, share))}});
  }
  return list;
}

}  // namespace

CostReport measure_cost(ParameterStore store, std::span<const int64_t> tokens,
                        const CostOptions& options) {
  CostReport report;
  const BitWidths bits = parse_bits(options.bits);
  const auto phase = [&](const char* name) {
    return [&options, name](int64_t done, int64_t total) {
      if (options.progress) options.progress(name, done, total);
    };
  };
  TurnedModel model(std::move(store));
  // Inputs and matrices as they are.
  OSP_CHECK(!bits.any_float(), "the noise of every point is that of integer grids");
  const int64_t noise_bits = bits.quantizes_activations() ? bits.activations.bits : 4;
  NoiseTap noise(model.store(), noise_bits, model.online());
  LinearNoiseTap linears(model.store(), model.online());
  TapChain taps({&noise, &linears});
  watch_tokens(model.store(), tokens, options.tokens, taps);
  report.noise = noise.noise();
  report.linears = linears.linears();
  report.mean_shares = linears.mean_shares();
  if (options.attribution_tokens > 0) {
    report.attribution = attribute_damage(
        model, tokens,
        {.bits = bits, .max_tokens = options.attribution_tokens, .progress = phase("attribution")});
  }
  // The same basis with other grids.
  report.remedies = measure_remedies(model, tokens,
                                     {.bits = bits,
                                      .max_tokens = options.tokens,
                                      .means = linears.reader_means(),
                                      .progress = phase("remedies")});
  // Other bases.
  report.tax = measure_outlier_tax(model, tokens,
                                   {.bits = bits,
                                    .rotations = options.rotations,
                                    .max_tokens = options.tokens,
                                    .progress = phase("outlier tax")});
  report.bases =
      measure_bases(model, tokens,
                    {.bits = bits, .max_tokens = options.tokens, .progress = phase("other bases")});
  return report;
}

Json tax_json(const OutlierTax& tax) {
  Json json;
  json["bits"] = tax.bits.text();
  json["tokens"] = tax.tokens;
  json["window"] = tax.window;
  json["kl"] = finite_or_null(tax.kl);
  json["state_error"] = finite_or_null(tax.state_error);
  json["added_nats"] = finite_or_null(tax.added_nats);
  json["wide_bits"] = tax.wide.text();
  json["wide_kl"] = finite_or_null(tax.wide_kl);
  json["down_block"] = tax.down_block;
  json["own_added_nats"] = finite_or_null(tax.own_added_nats);
  json["own_state_error"] = finite_or_null(tax.own_state_error);
  if (!tax.all.rotated.empty()) {
    json["rotated_state_error"] = finite_or_null(tax.rotated_state_error);
  }
  json.update(tax_part_json(tax.all));
  if (tax.readers.own > 0) json["readers"] = tax_part_json(tax.readers);
  if (tax.generators.own > 0) json["generators"] = tax_part_json(tax.generators);
  if (!tax.refusal.empty()) json["refusal"] = tax.refusal;
  return json;
}

std::string tax_text(const OutlierTax& tax) {
  if (!tax.refusal.empty()) return "outlier tax not measured: " + tax.refusal;
  std::string text = fmt::format(
      "outlier tax {:.4f} ± {:.4f} nats a token ({}): divergence {:.4f} in the model's own basis, "
      "{:.4f} ± {:.4f} rotated, both with R4; {:.4f} without it (last state off by R_L {:.4f})",
      tax.all.tax(), tax.all.error(), percent(tax.all.share()), tax.all.own, tax.all.rotated_mean(),
      tax.all.deviation(), tax.kl, tax.state_error);
  if (tax.readers.rotated.empty()) return text;
  const auto half = [](const TaxPart& part) {
    return fmt::format("{:.4f} ± {:.4f} of {:.4f} ({})", part.tax(), part.error(), part.own,
                       percent(part.share()));
  };
  return text + fmt::format(
                    "\n  rounding these inputs alone: readers (q k v, gate up) {}; generators (o, "
                    "down) {}",
                    half(tax.readers), half(tax.generators));
}

Json cost_json(const CostReport& report) {
  Json json;
  json["outlier_tax"] = tax_json(report.tax);
  if (!report.attribution.sites.empty()) {
    json["attribution"] = attribution_json(report.attribution);
  }
  json["remedies"] = Json::array();
  for (const Remedy& remedy : report.remedies) {
    json["remedies"].push_back({{"options", remedy.options()}, {"kl", finite_or_null(remedy.kl)}});
  }
  json["inputs"] = inputs_json(report);
  json["linears"] = Json::array();
  for (const LinearNoise& one : report.linears) {
    json["linears"].push_back({{"name", one.name},
                               {"layer", one.layer},
                               {"noise_gain", finite_or_null(one.noise_gain)},
                               {"stable_rank", finite_or_null(one.stable_rank)}});
  }
  json["bases"] = Json::array();
  for (const BasisPoint& point : report.bases) {
    json["bases"].push_back({{"basis", point.basis},
                             {"block", point.block},
                             {"reader_kurtosis", finite_or_null(point.reader_kurtosis)},
                             {"kl", finite_or_null(point.kl)},
                             {"added_nats", finite_or_null(point.added_nats)}});
  }
  json["verdict"] = cost_verdict(report);
  return json;
}

std::string cost_text(const CostReport& report) {
  const OutlierTax& tax = report.tax;
  std::string text =
      fmt::format("divergence at {} from the model at 16 bits, nats a token ({} tokens)\n",
                  tax.bits.text(), format_count(tax.tokens));
  // The tax and its two halves.
  text += fmt::format("  as it is {:.4f}, at {} {:.4f}\n", tax.kl, tax.wide.text(), tax.wide_kl);
  for (const Remedy& remedy : report.remedies) {
    text += fmt::format("  with {} {:.4f}\n", remedy.options(), remedy.kl);
  }
  text += fmt::format(
      "relative error of the last state at {} (R_L): as it is {:.4f}, with R4 {:.4f}{}\n\n",
      tax.bits.text(), tax.state_error, tax.own_state_error,
      tax.all.rotated.empty() ? "" : fmt::format(", rotated {:.4f}", tax.rotated_state_error));
  text += fmt::format("{:<34} {:>9} {:>18} {:>18} {:>8}\n", "with R4; rounded", "own basis",
                      "rotated", "outlier tax", "share");
  const auto row = [&](const char* name, const TaxPart& part) {
    if (part.rotated.empty()) {
      text += fmt::format("{:<34} {:>9.4f}\n", name, part.own);
      return;
    }
    text += fmt::format("{:<34} {:>9.4f} {:>18} {:>18} {:>8}\n", name, part.own,
                        fmt::format("{:.4f} ± {:.4f}", part.rotated_mean(), part.deviation()),
                        fmt::format("{:.4f} ± {:.4f}", part.tax(), part.error()),
                        percent(part.share()));
  };
  row("everything", tax.all);
  row("readers (in of q k v, gate up)", tax.readers);
  row("generators (in of o, down)", tax.generators);
  // Attribution by site and the layers that cost most.
  if (!report.attribution.sites.empty()) {
    text += fmt::format("\n{:<18} {:>10} {:>13}   ({} tokens, everything: {:.4f})\n", "quantizer",
                        "only this", "all but this", format_count(report.attribution.tokens),
                        report.attribution.all);
    for (const SiteCost& cost : report.attribution.sites) {
      text += fmt::format("{:<18} {:>10.4f} {:>13.4f}\n", quant_site_name(cost.site), cost.only,
                          cost.without);
    }
    std::vector<LayerCost> layers = report.attribution.layers;
    std::stable_sort(layers.begin(), layers.end(),
                     [](const LayerCost& a, const LayerCost& b) { return a.only > b.only; });
    layers.resize(std::min<size_t>(layers.size(), 3));
    text += "the costliest layers alone:";
    for (const LayerCost& cost : layers) {
      text += fmt::format(" {} ({:.4f})", cost.layer, cost.only);
    }
    text += "\n";
  }
  // The noise of linear layers, as means over layers.
  std::map<TapPoint, std::array<LayerMean, 5>> inputs;
  for (const auto& [key, share] : report.mean_shares) {
    auto& means = inputs[key.first];
    const double sqnr = report.noise.at(key).sqnr_db();
    means[0].add(sqnr);
    means[1].add(informative_sqnr_db(sqnr, share));
    means[2].add(share);
  }
  for (const LinearNoise& one : report.linears) {
    auto& means = inputs[input_point(one.role)];
    means[3].add(one.noise_gain);
    means[4].add(one.stable_rank);
  }
  text += fmt::format("\n{:<18} {:>9} {:>16} {:>11} {:>11} {:>12}\n", "mean over layers", "SQNR",
                      "informative SQNR", "mean share", "noise gain", "stable rank");
  for (const auto& [point, means] : inputs) {
    text += fmt::format("{:<18} {:>6.1f} dB {:>13.1f} dB {:>11} {:>11.2f} {:>12.1f}\n",
                        tap_point_name(point), means[0].value(), means[1].value(),
                        percent(means[2].value()), means[3].value(), means[4].value());
  }
  // Dose and response.
  if (!report.bases.empty()) {
    text += fmt::format("\n{:<32} {:>15} {:>12} {:>12}\n", "the same function, other basis",
                        "reader kurtosis", "divergence", "added nats");
    for (const BasisPoint& point : report.bases) {
      const std::string name = point.block > 0
                                   ? fmt::format("principal axes, {} mixed", point.block)
                               : point.basis == "own" ? "own basis, gains folded"
                                                      : "principal axes on channels";
      text += fmt::format("{:<32} {:>15.2f} {:>12.4f} {:>12.4f}\n", name, point.reader_kurtosis,
                          point.kl, point.added_nats);
    }
  }
  text += "\n";
  for (const std::string& sentence : cost_verdict(report)) text += sentence + "\n";
  return text;
}

}  // namespace osp
