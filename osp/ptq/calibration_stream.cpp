#include "osp/ptq/calibration_stream.h"

#include <ATen/TensorOperators.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"

namespace osp {
namespace {

bool reads_linear(TapPoint point) {
  return point == TapPoint::attention_input || point == TapPoint::attention_output ||
         point == TapPoint::mlp_input || point == TapPoint::mlp_product;
}

// Online transforms, quantizers and replaced weights, and a watcher of the inputs.
class StreamTap : public Tap {
 public:
  StreamTap(const ParameterStore& block, const PassSettings& settings)
      : inner_(block, {16, settings.bits.activations, settings.bits.kv_cache}, settings.online,
               settings.grids),
        replacements_(settings.replacements) {}

  std::function<void(TapPoint, const at::Tensor&)> see;

  bool wants(TapPoint point, int64_t layer) const override {
    return (see && reads_linear(point)) || inner_.wants(point, layer);
  }
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override {
    const at::Tensor y = inner_.at(point, layer, x);
    if (see && reads_linear(point)) see(point, y);
    return y;
  }
  bool wants_weights() const override { return replacements_ != nullptr; }
  at::Tensor weight(int64_t parameter, const at::Tensor& w) override {
    const auto found = replacements_->find(parameter);
    return found == replacements_->end() ? w : found->second;
  }

 private:
  FakeQuantTap inner_;
  const Replacements* replacements_;
};

ForwardOptions with(Tap& tap) {
  ForwardOptions options;
  options.tap = &tap;
  return options;
}

}  // namespace

CalibrationStream::CalibrationStream(const ParameterStore& outside, const at::Tensor& windows_NT,
                                     bool in_pieces, int64_t batch_tokens, ActivationSpace& space)
    : batch_(std::max<int64_t>(1, batch_tokens / windows_NT.size(1))),
      residual_(windows_NT.size(0), windows_NT.size(1), outside.config.width,
                outside.banks.front().compute.scalar_type(), space) {
  const ModelConfig& config = outside.config;
  const auto room = [&](std::optional<CalibrationStore>& store, int64_t width, int64_t slots = 1) {
    store.emplace(windows_NT.size(0), slots * windows_NT.size(1), width,
                  outside.banks.front().compute.scalar_type(), space);
  };
  if (in_pieces) {
    room(attention_, config.heads * config.head_size);
    if (config.has_experts()) {
      room(expert_product_, config.expert_inner, config.experts_per_token);
    }
    if (!config.has_experts() || !config.dense_layers.empty()) room(product_, config.inner);
    if (config.parallel) room(branch_, config.width);
  }
  for_each_batch([&](int64_t first, int64_t count) {
    residual_.put(first, forward_embedding(outside, windows_NT.narrow(0, first, count)));
  });
}

void CalibrationStream::for_each_batch(const std::function<void(int64_t, int64_t)>& visit) const {
  for (int64_t first = 0; first < windows(); first += batch_) {
    visit(first, std::min(batch_, windows() - first));
  }
}

void CalibrationStream::advance(
    const ParameterStore& block, int64_t layer, const PassSettings& settings,
    const std::function<void(TapPoint, const at::Tensor&, int64_t)>& see) {
  StreamTap tap(block, settings);
  for_each_batch([&](int64_t first, int64_t count) {
    if (see) tap.see = [&](TapPoint point, const at::Tensor& x) { see(point, x, first); };
    residual_.put(first, forward_block(block, layer, residual_.get(first, count), with(tap)));
  });
}

at::Tensor CalibrationStream::input(const ParameterStore& block, int64_t layer,
                                    const PassSettings& settings, TapPoint point, int64_t first,
                                    int64_t count) {
  OSP_CHECK(attention_, "a stream that is not in pieces");
  leave_if_stopped("calibration windows passed a block");
  StreamTap tap(block, settings);
  const BlockPieces pieces(block, layer, residual_.length(), with(tap));
  at::Tensor x = residual_.get(first, count);
  if (point == TapPoint::attention_input) return pieces.attention_input(x);
  if (point == TapPoint::attention_output) {
    const at::Tensor output = pieces.attention_output(pieces.attention_input(x));
    attention_->put(first, output);
    return output;
  }
  if (point == TapPoint::mlp_input) {
    const at::Tensor branch = pieces.attention_branch(attention_->get(first, count));
    if (branch_) {
      branch_->put(first, branch);
    } else {
      x = x + branch;
      residual_.put(first, x);
    }
    return pieces.mlp_input(x);
  }
  OSP_CHECK(point == TapPoint::mlp_product, "no linear layer reads this point");
  const at::Tensor product = pieces.mlp_product(pieces.mlp_input(x), pieces.routing(x));
  products(block, layer).put(first, product.dim() == 4 ? product.flatten(1, 2) : product);
  return product;
}

CalibrationStore& CalibrationStream::products(const ParameterStore& block, int64_t layer) {
  return block.config.routes(layer) ? *expert_product_ : *product_;
}

ExpertRouting CalibrationStream::routing(const ParameterStore& block, int64_t layer,
                                         const PassSettings& settings, int64_t first,
                                         int64_t count) const {
  StreamTap tap(block, settings);
  return BlockPieces(block, layer, residual_.length(), with(tap))
      .routing(residual_.get(first, count));
}

void CalibrationStream::finish(const ParameterStore& block, int64_t layer,
                               const PassSettings& settings, int64_t first, int64_t count) {
  StreamTap tap(block, settings);
  const BlockPieces pieces(block, layer, residual_.length(), with(tap));
  at::Tensor branch = pieces.mlp_branch(
      products(block, layer).get(first, count),
      block.config.routes(layer) ? pieces.routing(residual_.get(first, count)) : ExpertRouting());
  if (branch_) branch = branch_->get(first, count) + branch;
  residual_.put(first, residual_.get(first, count) + branch);
}

}  // namespace osp
