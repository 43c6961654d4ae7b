#include "osp/diagnose/quant_site.h"

#include <optional>
#include <utility>

#include "osp/base/error.h"
#include "osp/ops/hadamard_matrix.h"

namespace osp {
namespace {

// The site whose quantizer stands at a point, none where nothing is rounded.
std::optional<QuantSite> site_of(TapPoint point) {
  switch (point) {
    case TapPoint::attention_input:
      return QuantSite::attention_input;
    case TapPoint::mlp_input:
      return QuantSite::mlp_input;
    case TapPoint::attention_output:
      return QuantSite::attention_output;
    case TapPoint::mlp_product:
      return QuantSite::mlp_product;
    case TapPoint::query:  // turned as the keys are
    case TapPoint::key:
    case TapPoint::value:
      return QuantSite::cache;
    case TapPoint::embedding:
    case TapPoint::attention_logits:
    case TapPoint::residual:
    case TapPoint::final_state:
    case TapPoint::head_input:
      return std::nullopt;
  }
  OSP_CHECK(false, "unknown tap point {}", static_cast<int>(point));
}

// Without the Hadamard of queries and keys where no matrix of the head size is known.
OnlineTransforms known_transforms(OnlineTransforms online, int64_t head_size) {
  if (hadamard_factors(head_size).blocks == 0) online.query_key_hadamard = false;
  return online;
}

}  // namespace

const char* quant_site_name(QuantSite site) {
  switch (site) {
    case QuantSite::attention_input:
      return "attention_input";
    case QuantSite::mlp_input:
      return "mlp_input";
    case QuantSite::attention_output:
      return "attention_output";
    case QuantSite::mlp_product:
      return "mlp_product";
    case QuantSite::cache:
      return "cache";
    case QuantSite::weights:
      return "weights";
  }
  OSP_CHECK(false, "unknown site {}", static_cast<int>(site));
}

SiteQuantTap::SiteQuantTap(const ParameterStore& store, const BitWidths& bits,
                           const OnlineTransforms& online, SiteSelection selected)
    : store_(store),
      quantizers_(store, bits, known_transforms(online, store.config.head_size)),
      transforms_(store, {}, online),
      selected_(std::move(selected)) {}

bool SiteQuantTap::wants(TapPoint point, int64_t layer) const {
  return quantizers_.wants(point, layer) || transforms_.wants(point, layer);
}

at::Tensor SiteQuantTap::at(TapPoint point, int64_t layer, const at::Tensor& x) {
  const std::optional<QuantSite> site = site_of(point);
  if (!site) return x;
  return selected_(*site, layer) ? quantizers_.at(point, layer, x)
                                 : transforms_.at(point, layer, x);
}

at::Tensor SiteQuantTap::weight(int64_t parameter, const at::Tensor& w) {
  const ParameterSpec& spec = store_.specs.at(static_cast<size_t>(parameter));
  return selected_(QuantSite::weights, spec.layer) ? quantizers_.weight(parameter, w) : w;
}

}  // namespace osp
