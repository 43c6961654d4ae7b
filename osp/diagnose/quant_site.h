// The places of a model where 4 bits do damage, and a tap that rounds at chosen ones only.
//
// Readers are the inputs of layers that read the residual stream (q, k, v; gate, up): what outliers
// in the stream hurt. Generators are the inputs of layers that write it (o, down).
//
// Tested by outlier_tax_test.cpp.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "osp/quant/fake_quant.h"

namespace osp {

enum class QuantSite {
  attention_input,   // of q, k and v
  mlp_input,         // of gate and up
  attention_output,  // the input of o
  mlp_product,       // the input of down
  cache,             // keys and values
  weights            // of a block's linear layers
};

inline constexpr std::array kQuantSites = {
    QuantSite::attention_input, QuantSite::mlp_input, QuantSite::attention_output,
    QuantSite::mlp_product,     QuantSite::cache,     QuantSite::weights};

// "attention_input", … "weights".
const char* quant_site_name(QuantSite site);

inline bool is_reader(QuantSite site) {
  return site == QuantSite::attention_input || site == QuantSite::mlp_input;
}
inline bool is_generator(QuantSite site) {
  return site == QuantSite::attention_output || site == QuantSite::mlp_product;
}

// Which quantizers are switched on.
using SiteSelection = std::function<bool(QuantSite site, int64_t layer)>;
inline bool every_site(QuantSite, int64_t) { return true; }

// FakeQuantTap at `bits` where `selected`, and the model at 16 bits elsewhere. The online
// transforms are computed everywhere. `store` must outlive the tap and keep its values.
class SiteQuantTap : public Tap {
 public:
  SiteQuantTap(const ParameterStore& store, const BitWidths& bits, const OnlineTransforms& online,
               SiteSelection selected = every_site);

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;
  bool wants_weights() const override { return quantizers_.wants_weights(); }
  at::Tensor weight(int64_t parameter, const at::Tensor& w) override;

  // Other sites from now on; weights that were rounded before are kept.
  void select(SiteSelection selected) { selected_ = std::move(selected); }

 private:
  const ParameterStore& store_;
  FakeQuantTap quantizers_, transforms_;
  SiteSelection selected_;
};

}  // namespace osp
