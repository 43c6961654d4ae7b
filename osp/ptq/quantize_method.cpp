#include "osp/ptq/quantize_method.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "osp/base/error.h"
#include "osp/base/fields.h"

namespace osp {
namespace {

const std::map<std::string, Transform>& transforms() {
  static const std::map<std::string, Transform> names = {
      {"ffn-hadamard", Transform::ffn_hadamard},
      {"quarot", Transform::quarot},
      {"spinquant", Transform::spinquant},
      {"spinquant-kurtosis", Transform::spinquant_kurtosis},
      {"smoothquant", Transform::smoothquant},
      {"awq", Transform::awq}};
  return names;
}

struct Rounding {
  WeightMethod weights;
  Correction correction;
};

const std::map<std::string, Rounding>& roundings() {
  static const std::map<std::string, Rounding> names = {
      {"rtn", {WeightMethod::rtn, Correction::none}},
      {"gptq", {WeightMethod::gptq, Correction::none}},
      {"gptaq", {WeightMethod::gptq, Correction::gptaq}},
      {"qronos", {WeightMethod::gptq, Correction::qronos}}};
  return names;
}

[[noreturn]] void fail_name(const std::string& name, const std::string& text) {
  std::vector<std::string> known;
  for (const auto& [key, value] : roundings()) known.push_back(key);
  for (const auto& [key, value] : transforms()) known.push_back(key);
  const std::string guess = nearest_name(name, known);
  fail(ErrorCode::usage, "--method {}: unknown part \"{}\"{}; known are {}, joined by +", text,
       name, guess.empty() ? "" : fmt::format(" (did you mean {}?)", guess),
       fmt::join(known, ", "));
}

}  // namespace

bool QuantizeMethod::needs_calibration() const {
  const bool draws_nothing = transform == Transform::none || transform == Transform::ffn_hadamard ||
                             transform == Transform::quarot;
  return weights == WeightMethod::gptq || !draws_nothing;
}

QuantizeMethod parse_method(const std::string& text) {
  QuantizeMethod method;
  std::string transform, rounding;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find('+', begin), text.size());
    const std::string name = text.substr(begin, end - begin);
    std::string* place = transforms().contains(name)  ? &transform
                         : roundings().contains(name) ? &rounding
                                                      : nullptr;
    if (place == nullptr) fail_name(name, text);
    if (!place->empty()) {
      fail(ErrorCode::usage, "--method {}: {} and {} exclude each other", text, *place, name);
    }
    *place = name;
    begin = end + 1;
  }
  if (rounding.empty()) {
    rounding = transform == "quarot" || transform.starts_with("spinquant") ? "gptq" : "rtn";
  }
  if (!transform.empty()) method.transform = transforms().at(transform);
  method.weights = roundings().at(rounding).weights;
  method.correction = roundings().at(rounding).correction;
  method.name = transform.empty() ? rounding : transform + "+" + rounding;
  return method;
}

std::vector<std::string> table_methods() {
  return {"rtn",         "ffn-hadamard+rtn", "ffn-hadamard+gptq",
          "quarot+gptq", "spinquant+gptq",   "smoothquant+rtn",
          "awq+rtn"};
}

Profile parse_profile(const std::string& text) {
  if (text == "osp-paper") return Profile::osp_paper;
  if (text == "best") return Profile::best;
  fail(ErrorCode::usage, "--profile {}: expected osp-paper or best", text);
}

WeightSettings weight_settings(const QuantizeMethod& method, Profile profile, const BitWidths& bits,
                               int64_t group, bool symmetric) {
  WeightSettings settings;
  settings.method = method.weights;
  settings.grid = {.bits = bits.weights,
                   .group = group,
                   .symmetric = symmetric,
                   .clipping_search = true,
                   .fp16_scales = profile == Profile::best};
  // AWQ has clipped the weights by their outputs already.
  if (method.transform == Transform::awq) settings.grid.clipping_search = false;
  settings.gptq.correction = method.correction;
  if (method.correction == Correction::qronos) settings.gptq.act_order = true;
  if (profile == Profile::best) {
    settings.gptq.act_order = true;
    settings.calibration_bits = {16, bits.activations, bits.kv_cache};
  }
  return settings;
}

}  // namespace osp
