#include "osp/diagnose/linear_noise.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/base/philox.h"
#include "osp/eval/perplexity.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

constexpr int kMostIterations = 1000;
constexpr double kSpectralTolerance = 1e-6;  // relative change of ‖W‖₂² from one step to the next

double energy(const at::Tensor& x) { return x.square().sum(at::kDouble).item<double>(); }

// ‖w‖₂² by power iteration on wᵀ w.
double squared_spectral_norm(const at::Tensor& w) {
  at::Tensor v = at::empty({w.size(1)}, at::kFloat);
  RandomStream(1, "stable rank")
      .fill_normal({v.data_ptr<float>(), static_cast<size_t>(v.numel())}, 0.0, 1.0);
  double largest = 0;
  for (int i = 0; i < kMostIterations; ++i) {
    const at::Tensor image = at::matmul(w.t(), at::matmul(w, v / v.norm()));
    const double now = image.norm().item<double>();
    if (!(now > 0) || std::abs(now - largest) <= kSpectralTolerance * now) return now;
    largest = now;
    v = image;
  }
  return largest;
}

constexpr int64_t kPassTokens = 4096;  // of one forward pass, at least one window

}  // namespace

void watch_tokens(const ParameterStore& store, std::span<const int64_t> tokens, int64_t max_tokens,
                  Tap& tap) {
  const at::NoGradGuard no_grad;
  const int64_t window = perplexity_window(store.config.context);
  int64_t windows = static_cast<int64_t>(tokens.size()) / window;
  if (windows == 0) {
    fail(ErrorCode::unsupported,
         "the data has {} tokens, less than one window of {}: give a longer text", tokens.size(),
         window);
  }
  if (max_tokens > 0) windows = std::clamp<int64_t>(max_tokens / window, 1, windows);
  const auto used = tokens.first(static_cast<size_t>(windows * window));
  check_token_ids(used, store.config.vocabulary);
  const at::Tensor all =
      at::from_blob(const_cast<int64_t*>(used.data()), {windows, window}, at::kLong);
  ForwardOptions options;
  options.tap = &tap;
  const int64_t batch = std::max<int64_t>(1, kPassTokens / window);
  for (int64_t i = 0; i < windows; i += batch) {
    forward_hidden(store, all.narrow(0, i, std::min(batch, windows - i)), options);
  }
}

double stable_rank(const at::Tensor& w) {
  const at::Tensor matrix = w.to(at::kCPU, at::kFloat);
  return energy(matrix) / squared_spectral_norm(matrix);
}

double informative_sqnr_db(double sqnr_db, double mean_share) {
  return sqnr_db + 10 * std::log10(1 - mean_share);
}

LinearNoiseTap::LinearNoiseTap(const ParameterStore& store, const OnlineTransforms& online)
    : LinearInputTap(store, online), store_(store) {}

void LinearNoiseTap::see(TapPoint point, int64_t layer, const at::Tensor& input) {
  const at::Tensor x = input.flatten(0, -2);
  InputSums& sums = inputs_[{point, layer}];
  const at::Tensor sum = x.sum(0, false, at::kDouble);
  sums.sum = sums.sum.defined() ? sums.sum + sum : sum;
  sums.energy += energy(x);
  sums.rows += static_cast<double>(x.size(0));
  for (size_t i = 0; i < store_.specs.size(); ++i) {
    const ParameterSpec& spec = store_.specs[i];
    if (spec.kind != ParameterKind::matrix || spec.layer != layer || spec.expert >= 0) continue;
    if (!block_linear(spec.role) || input_point(spec.role) != point) continue;
    const auto parameter = static_cast<int64_t>(i);
    const at::Tensor w = store_.compute(parameter);
    output_energy_[parameter] += energy(at::matmul(x.to(w.scalar_type()), w.t()));
  }
}

// Experts get rows of their own.
void LinearNoiseTap::linear_input(std::span<const int64_t> parameters, const at::Tensor& x) {
  for (const int64_t parameter : parameters) {
    const ParameterSpec& spec = store_.specs[static_cast<size_t>(parameter)];
    if (spec.expert < 0) continue;
    const at::Tensor w = store_.compute(parameter);
    output_energy_[parameter] += energy(at::matmul(x.to(w.scalar_type()), w.t()));
    expert_energy_[parameter] += energy(x);
  }
}

std::vector<LinearNoise> LinearNoiseTap::linears() const {
  std::vector<LinearNoise> list;
  for (const auto& [parameter, output] : output_energy_) {
    const ParameterSpec& spec = store_.specs[static_cast<size_t>(parameter)];
    const at::Tensor w = store_.master(parameter);
    const double input = spec.expert >= 0 ? expert_energy_.at(parameter)
                                          : inputs_.at({input_point(spec.role), spec.layer}).energy;
    const double gain = energy(w) * input / (static_cast<double>(w.size(1)) * output);
    list.push_back({spec.name, spec.role, spec.layer, gain, stable_rank(w)});
  }
  return list;
}

std::map<std::pair<TapPoint, int64_t>, double> LinearNoiseTap::mean_shares() const {
  std::map<std::pair<TapPoint, int64_t>, double> shares;
  for (const auto& [key, input] : inputs_) {
    shares[key] = energy(input.sum) / (input.rows * input.energy);
  }
  return shares;
}

InputOffsets LinearNoiseTap::reader_means() const {
  InputOffsets means;
  for (const TapPoint point : offset_points(MeanOffset::residual)) {
    for (const auto& [key, input] : inputs_) {
      if (key.first == point) means[key] = input.sum.div(input.rows).to(at::kFloat);
    }
  }
  return means;
}

}  // namespace osp
