#include "osp/report/measurement.h"

#include <algorithm>
#include <cmath>

#include "osp/base/console.h"
#include "osp/base/error.h"

namespace osp {
namespace {

bool recorded(const Measurement& at) {
  return !at.text.empty() && (at.benchmarks || (at.tokens > 0 && at.window > 0));
}

// The last measurement that `holds`; null if none does.
template <class Holds>
const TextPerplexities* last_of(const std::vector<TextPerplexities>& model, const Holds& holds) {
  const auto found = std::find_if(model.rbegin(), model.rend(), holds);
  return found == model.rend() ? nullptr : &*found;
}

// Why 16 and 4 bits of a model make no damage, though both were measured.
std::string gap_of(const std::vector<TextPerplexities>& model) {
  const auto has = [](const char* bits) {
    return [bits](const TextPerplexities& at) { return std::isfinite(at.of(bits)); };
  };
  const TextPerplexities* full = last_of(model, has(kFullBits));
  const TextPerplexities* four = last_of(model, has(kFourBits));
  return full && four ? difference(full->at, four->at) : "";
}

}  // namespace

std::string Measurement::key() const {
  return fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}", text, tokens, window, stride, settings,
                     benchmarks, recorded(*this) ? "" : file);
}

std::string Measurement::phrase() const {
  if (file.empty() && text.empty() && tokens == 0) return "–";
  std::string out = text.empty() ? "text not recorded" : text;
  if (tokens > 0) out += ", " + format_count(tokens) + " tokens";
  if (window > 0) out += ", window " + format_count(window);
  if (window > 0 && stride > 0 && stride != window) out += ", stride " + format_count(stride);
  return out + settings;
}

std::string difference(const Measurement& a, const Measurement& b) {
  if (a.key() == b.key()) return "";
  if (a.text.empty() || b.text.empty()) return "text not recorded";
  if (a.text != b.text) return "other text";
  if (a.tokens != b.tokens) return "other token count";
  if (a.window != b.window || a.stride != b.stride) return "other window";
  return a.settings != b.settings ? "other settings" : "tokens or window not recorded";
}

double TextPerplexities::of(const std::string& bits) const {
  const auto found = by_bits.find(bits);
  return found == by_bits.end() ? std::nan("") : found->second;
}

bool TextPerplexities::whole() const {
  return std::isfinite(of(kFullBits)) && std::isfinite(of(kFourBits));
}

Measurement common_measurement(const std::vector<std::vector<TextPerplexities>>& models) {
  // A whole measurement of one model counts more than halves of all.
  std::map<std::string, size_t> votes;
  for (const auto& model : models) {
    for (const TextPerplexities& measured : model) {
      votes[measured.at.key()] += measured.whole() ? models.size() + 1 : 1;
    }
  }
  Measurement best;
  size_t most = 0;
  for (const auto& model : models) {
    for (const TextPerplexities& measured : model) {
      const size_t count = votes[measured.at.key()];
      if (count <= most) continue;
      most = count;
      best = measured.at;
    }
  }
  return best;
}

ShownPerplexity shown_perplexity(const std::vector<TextPerplexities>& model,
                                 const Measurement& common) {
  const auto whole = [](const TextPerplexities& at) { return at.whole(); };
  const TextPerplexities* chosen = last_of(
      model, [&](const TextPerplexities& at) { return at.whole() && at.at.key() == common.key(); });
  if (!chosen) chosen = last_of(model, whole);
  if (!chosen) {
    chosen = last_of(model, [](const TextPerplexities& at) {
      return std::isfinite(at.of(kFullBits)) || std::isfinite(at.of(kFourBits));
    });
  }
  if (!chosen && !model.empty()) chosen = &model.back();
  if (!chosen) return {};
  return {chosen->at, chosen->of(kFullBits), chosen->of(kFourBits),
          chosen->whole() ? "" : gap_of(model), chosen->by_bits};
}

}  // namespace osp
