#include "osp/diagnose/basis_response.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/kron.h>
#include <ATen/ops/linalg_eigh.h>
#include <fmt/format.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/diagnose/linear_noise.h"
#include "osp/measure/rows.h"
#include "osp/ops/hadamard_matrix.h"

namespace osp {
namespace {

constexpr int64_t kAxesTokens = 16384;  // enough for the leading axes of any width in use

// Kurtosis and second moments of what the readers get.
class ReaderTap : public LinearInputTap {
 public:
  using LinearInputTap::LinearInputTap;

  double kurtosis() const { return kurtosis_.mean(); }
  const at::Tensor& second_moments() const { return moments_; }  // fp64 [D, D]

 protected:
  void see(TapPoint point, int64_t, const at::Tensor& input) override {
    if (point != TapPoint::attention_input && point != TapPoint::mlp_input) return;
    const at::Tensor x = input.flatten(0, -2);
    for_each_row_block(x, [&](int64_t, std::span<const float>, auto statistics) {
      for (const RowStatistics& row : statistics) {
        if (row.moments.m2 > 0) kurtosis_.add(excess_kurtosis(row.moments));
      }
    });
    const at::Tensor products = at::matmul(x.t(), x).to(at::kDouble);
    moments_ = moments_.defined() ? moments_ + products : products;
  }

 private:
  KurtosisMean kurtosis_;
  at::Tensor moments_;
};

// Rows are channels of the own basis, columns principal axes, the strongest first.
at::Tensor principal_axes(const at::Tensor& second_moments) {
  return std::get<1>(at::linalg_eigh(second_moments)).flip(1).contiguous();
}

// Neighbouring channels mixed in blocks.
at::Tensor block_rotation(int64_t width, int64_t block, uint64_t seed) {
  const at::Tensor one =
      random_rotation(block, seed, fmt::format("mixing blocks of {}", block), false).dense();
  return at::kron(at::eye(width / block, at::kDouble), one);
}

// 4, 16, 64 … that divide the width and have a Hadamard matrix, then the width.
std::vector<int64_t> block_sizes(int64_t width) {
  std::vector<int64_t> sizes;
  for (int64_t block = 4; block < width && width % block == 0; block *= 4) sizes.push_back(block);
  sizes.push_back(width);
  return sizes;
}

}  // namespace

std::vector<BasisPoint> measure_bases(TurnedModel& model, std::span<const int64_t> tokens,
                                      const BasisOptions& options) {
  const at::NoGradGuard no_grad;
  const ModelConfig& config = model.store().config;
  if (config.layer_norm() || !model.why_no_rotation().empty()) return {};
  OSP_CHECK(model.online().down_hadamard, "bases are compared with R4");
  const int64_t watched =
      options.max_tokens > 0 ? std::min(options.max_tokens, kAxesTokens) : kAxesTokens;
  // Measures the present basis.
  const std::vector<int64_t> blocks = block_sizes(config.width);
  const auto total = static_cast<int64_t>(blocks.size()) + 2;
  std::vector<BasisPoint> points;
  at::Tensor second_moments;
  const auto measure = [&](const std::string& basis, int64_t block) {
    ReaderTap tap(model.store(), model.online());
    watch_tokens(model.store(), tokens, watched, tap);
    second_moments = tap.second_moments();
    const DivergenceResult result =
        model.divergence(tokens, options.max_tokens, options.bits, every_site);
    points.push_back({basis, block, tap.kurtosis(), result.divergence,
                      result.changed_loss - result.original_loss});
    if (options.progress) options.progress(static_cast<int64_t>(points.size()), total);
  };
  measure("own", 0);
  model.turn(dense_rotation(principal_axes(second_moments)));
  measure("principal", 0);
  at::Tensor mixed = at::eye(config.width, at::kDouble);
  for (const int64_t block : blocks) {
    const at::Tensor next = block_rotation(config.width, block, options.seed);
    model.turn(dense_rotation(at::matmul(mixed.t(), next)));
    mixed = next;
    measure("mixed", block);
  }
  return points;
}

}  // namespace osp
