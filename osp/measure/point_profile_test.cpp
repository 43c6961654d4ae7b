#include "osp/measure/point_profile.h"

#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "osp/base/philox.h"

namespace osp {
namespace {

at::Tensor normal_profile(at::IntArrayRef shape) {
  at::Tensor x = at::zeros(shape, at::kFloat);
  RandomStream(6, "profile")
      .fill_normal({x.data_ptr<float>(), static_cast<size_t>(x.numel())}, 0, 1);
  return x;
}

void add_all(PointProfile& profile, const at::Tensor& x, int64_t first_sequence) {
  const auto layout = PointProfile::layout_of(x, first_sequence);
  for_each_row_block(x, [&](int64_t first, std::span<const float> rows, auto per_row) {
    profile.add(layout, first, rows, per_row);
  });
}

TEST(PointProfile, StepShareOfKnownRows) {
  const auto share = [](std::vector<float> row) { return step_share(row, find_largest(row)); };
  EXPECT_DOUBLE_EQ(share({1, -1, 8, 0}), 1.0 - 2.0 / 9.0);  // [−1, 8] without 8: [−1, 1]
  EXPECT_DOUBLE_EQ(share({4, 4, 0}), 0.0);                  // another as large
  EXPECT_DOUBLE_EQ(share({0, -3, 0}), 1.0);
  EXPECT_DOUBLE_EQ(share({0, 0}), 0.0);
}

TEST(PointProfile, StepShareEqualsItsNaiveTwin) {
  const at::Tensor x = normal_profile({50, 37});
  for (int64_t i = 0; i < 50; ++i) {
    const std::span<const float> row(x.const_data_ptr<float>() + 37 * i, 37);
    EXPECT_EQ(step_share(row, find_largest(row)), step_share_reference(row));
  }
}

TEST(PointProfile, StreamInPiecesEqualsTheWholeAndStaysAsSmall) {
  const at::Tensor x = normal_profile({4, 2, 9, 8});  // two heads
  PointProfile whole, pieces, other;
  add_all(whole, x, 0);
  add_all(pieces, x.narrow(0, 0, 1), 0);
  add_all(other, x.narrow(0, 1, 3), 1);
  pieces.merge(other);
  EXPECT_EQ(pieces.rows(), 72);
  // fp64 sums in another order.
  EXPECT_NEAR(pieces.kurtosis().mean(), whole.kurtosis().mean(), 1e-12);
  EXPECT_NEAR(pieces.step_share(), whole.step_share(), 1e-12);
  ASSERT_EQ(whole.largest().size(), kLargestPerPoint);
  for (size_t i = 0; i < kLargestPerPoint; ++i) {
    const PlacedActivation &a = whole.largest()[i], &b = pieces.largest()[i];
    EXPECT_EQ(a.value, b.value);
    EXPECT_EQ(a.value, x[a.sequence][a.channel / 8][a.position][a.channel % 8].item<float>());
    EXPECT_EQ(b.sequence, a.sequence);
  }
  const std::vector<double> rms = pieces.channel_rms();
  ASSERT_EQ(rms.size(), 16u);
  const at::Tensor wanted = x.to(at::kDouble).square().mean({0, 2}).sqrt().flatten();
  for (int64_t c = 0; c < 16; ++c) EXPECT_NEAR(rms[c], wanted[c].item<double>(), 1e-12);
  // A thousand times the rows: what is kept has the same size.
  for (int i = 0; i < 1000; ++i) add_all(pieces, x, 4 * i);
  EXPECT_EQ(pieces.channel_rms().size(), 16u);
  EXPECT_EQ(pieces.largest().size(), kLargestPerPoint);
}

}  // namespace
}  // namespace osp
