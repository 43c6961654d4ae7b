#include "osp/quant/noise_tap.h"

#include <gtest/gtest.h>

#include <cmath>

#include "osp/model/test_model.h"
#include "osp/ops/test_tensors.h"
#include "osp/quant/grid.h"

namespace osp {
namespace {

TEST(NoiseTap, NoiseIsThatOfTheGridAndTheModelRunsOn) {
  const ParameterStore store = small_fused_model(2);
  NoiseTap tap(store, 4, {});
  const at::Tensor x = gaussian(6, 32, "noise").view({2, 3, 32});
  EXPECT_TRUE(tap.at(TapPoint::mlp_input, 1, x).is_same(x));
  double signal = 0, noise = 0, relative = 0;
  for (int64_t i = 0; i < 6; ++i) {
    std::vector<float> row(x.const_data_ptr<float>() + 32 * i,
                           x.const_data_ptr<float>() + 32 * (i + 1));
    const std::vector<float> before = row;
    fake_quantize_asymmetric_reference(row, 4, GroupRange::contains_zero);
    double s = 0, n = 0;
    for (size_t c = 0; c < row.size(); ++c) {
      s += double(before[c]) * before[c];
      n += std::pow(double(row[c]) - before[c], 2);
    }
    signal += s;
    noise += n;
    relative += n / s;
  }
  const QuantizationNoise& measured = tap.noise().at({TapPoint::mlp_input, 1});
  EXPECT_EQ(measured.groups, 6);
  // Squares in fp32.
  EXPECT_NEAR(measured.sqnr_db(), 10 * std::log10(signal / noise), 1e-5);
  EXPECT_NEAR(measured.sqnr_per_token_db(), -10 * std::log10(relative / 6), 1e-5);
  EXPECT_NEAR(measured.predicted_sqnr_db(), measured.sqnr_db(), 1.0);  // uniform errors, nearly
}

TEST(NoiseTap, OneHugeChannelDrownsTheRest) {
  const ParameterStore store = small_fused_model(2);
  NoiseTap tap(store, 4, {});
  const at::Tensor x = gaussian(1, 32, "noise").view({1, 1, 32});
  tap.at(TapPoint::mlp_input, 0, x);
  const at::Tensor huge = x.clone();
  huge.select(2, 5).fill_(20);
  tap.at(TapPoint::mlp_input, 1, huge);
  const auto rest = [&](int64_t layer, double signal) {
    return 10 * std::log10(signal / tap.noise().at({TapPoint::mlp_input, layer}).noise);
  };
  const double power = x.square().sum().item<double>();
  // The range grows from about 4 to about 22, the step with it: 20 lg 5 = 14 dB, less for numbers
  // that round to 0.
  EXPECT_LT(rest(1, power), rest(0, power) - 10);
}

}  // namespace
}  // namespace osp
