#include "osp/optim/quantized_momentum.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "osp/ops/isa.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

TEST(QuantizedMomentum, RoundTripErrsByHalfAStepAtMost) {
  // 1,961 numbers: seven blocks and a short one; magnitudes from 1e-12 to 1e12.
  for (const double size : {1e-12, 1.0, 1e12}) {
    const at::Tensor momentum = random_tensor({37, 53}, "round trip") * size;
    const QuantizedMomentum quantized = quantize_momentum_reference(momentum);
    ASSERT_EQ(quantized.scales.size(0), 8);
    const at::Tensor error = (dequantize_momentum_reference(quantized) - momentum).view(-1).abs();
    for (int64_t block = 0; block < 8; ++block) {
      const int64_t begin = 256 * block, n = std::min<int64_t>(256, 1961 - begin);
      const double scale = quantized.scales[block].item<double>();
      const double largest = momentum.view(-1).narrow(0, begin, n).abs().max().item<double>();
      EXPECT_NEAR(scale, largest / 127, 1e-7 * largest);
      // Half a step, and fp32's rounding of scale · code.
      EXPECT_LE(error.narrow(0, begin, n).max().item<double>(), scale * (0.5 + 127 * 1.2e-7));
    }
  }
}

TEST(QuantizedMomentum, ErrsBySevenThousandthsOnNormalNumbers) {
  // Rounding errors of steps max/127 are uniform: max / 127 / sqrt(12), where the root mean square
  // of the largest of 256 normal numbers is 3.06 (numerically): 0.00695.
  const at::Tensor momentum = random_tensor({512, 512}, "normal");
  const at::Tensor back = dequantize_momentum_reference(quantize_momentum_reference(momentum));
  EXPECT_NEAR(norm_of(back - momentum) / norm_of(momentum), 0.00695, 1e-4);
}

TEST(QuantizedMomentum, NumbersThatAreNotFiniteAreNotForgotten) {
  for (const float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    at::Tensor gradient = random_tensor({2, 300}, "bad");
    gradient[1][7] = bad;  // in the second of three blocks
    EXPECT_FALSE(std::isfinite(quantize_momentum_reference(gradient).scales[1].item<float>()));
    QuantizedMomentum momentum = zero_quantized_momentum(gradient.unsqueeze(0));
    std::vector<uint16_t> x(600);
    quantized_momentum_kernels().step(gradient.data_ptr<float>(), momentum.codes.data_ptr<int8_t>(),
                                      momentum.scales.data_ptr<float>(), x.data(), 600, 0.9f, true,
                                      1.0f);
    EXPECT_TRUE(std::isfinite(momentum.scales[0][0].item<float>()));
    EXPECT_FALSE(std::isfinite(momentum.scales[0][1].item<float>()));
    EXPECT_TRUE(std::isfinite(momentum.scales[0][2].item<float>()));
  }
}

// Levels of this CPU.
std::vector<const kernels::QuantizedMomentumKernels*> momentum_levels() {
  std::vector<const kernels::QuantizedMomentumKernels*> levels = {
      &kernels::quantized_momentum_kernels_portable()};
  if (detect_isa() >= Isa::avx2) levels.push_back(&kernels::quantized_momentum_kernels_avx2());
  if (detect_isa() >= Isa::avx512) levels.push_back(&kernels::quantized_momentum_kernels_avx512());
  return levels;
}

TEST(QuantizedMomentum, EveryLevelHasTheBitsOfTheReferenceTwin) {
  constexpr float kBeta = 0.95f, kDivisor = 3.7f;
  for (const bool nesterov : {true, false}) {
    for (const int64_t count : {1, 255, 256, 257, 1961}) {
      QuantizedMomentum expected = zero_quantized_momentum(at::zeros({1, 1, count})).select(0);
      std::vector<QuantizedMomentum> found;
      for (size_t i = 0; i < momentum_levels().size(); ++i) {
        found.push_back({expected.codes.clone(), expected.scales.clone()});
      }
      for (uint64_t step = 1; step <= 4; ++step) {
        at::Tensor g = random_tensor({1, count}, "levels", step);
        if (step == 1) g.zero_();                           // a scale of 0
        if (step == 2) g.mul_(1e-44);                       // a scale that is hardly a number
        if (step == 3 && count > 300) g[0][299] = -1000.0;  // one large number among small ones
        const at::Tensor buffer = g + dequantize_momentum_reference(expected) * kBeta;
        const at::Tensor update = nesterov ? g + buffer * kBeta : buffer;
        const at::Tensor x = (update / kDivisor).to(at::kBFloat16);
        const double squares = update.square().sum(at::kDouble).item<double>();
        expected = quantize_momentum_reference(buffer);
        double first = 0;
        for (size_t i = 0; i < found.size(); ++i) {
          const auto& level = *momentum_levels()[i];
          at::Tensor own = at::zeros({1, count}, at::kBFloat16);
          int8_t* codes = found[i].codes.data_ptr<int8_t>();
          float* scales = found[i].scales.data_ptr<float>();
          const double sum =
              level.sum_of_squares(g.data_ptr<float>(), codes, scales, count, kBeta, nesterov);
          level.step(g.data_ptr<float>(), codes, scales,
                     reinterpret_cast<uint16_t*>(own.data_ptr<at::BFloat16>()), count, kBeta,
                     nesterov, kDivisor);
          EXPECT_NEAR(sum, squares, 1e-6 * squares) << "256 fp32 squares are added by halves";
          if (i == 0) first = sum;
          EXPECT_EQ(sum, first);
          EXPECT_TRUE(at::equal(found[i].codes, expected.codes)) << count << " step " << step;
          EXPECT_TRUE(at::equal(found[i].scales, expected.scales)) << count << " step " << step;
          EXPECT_TRUE(at::equal(own, x)) << count << " step " << step;
        }
      }
    }
  }
}

}  // namespace
}  // namespace osp
