#include "osp/quant/grid_search.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/gather.h>
#include <gtest/gtest.h>

#include "osp/ops/test_tensors.h"
#include "osp/quant/grid_kernels.h"

namespace osp {
namespace {

TEST(GridSearch, ChoosesAsThePowersInFp64) {
  for (const int64_t columns : {1, 7, 64, 300, 1536}) {
    for (const double deviation : {1e-6, 0.02, 300.0}) {
      const at::Tensor x = gaussian(97, columns, "x", deviation);
      const at::Tensor top = x.abs().amax(1);
      at::Tensor scale = at::empty({kSearchSteps, 97}, at::kFloat);
      for (int64_t i = 0; i < kSearchSteps; ++i) {
        scale.select(0, i).copy_(top.mul(search_ratio(i)).div(7.0));
      }
      for (const bool shifted : {false, true}) {
        const at::Tensor zero = shifted ? scale.mul(0.0).add(-3.0) : at::Tensor();
        const at::Tensor found = best_candidates(x, scale, zero, -8.0, 7.0);
        const at::Tensor wanted = best_candidates_reference(x, scale, zero, -8.0, 7.0);
        // Two errors within 3e-7 of each other are decided by the rounding of a power: about one
        // row in 1e4.
        EXPECT_EQ(found.ne(wanted).sum().item<int64_t>(), 0) << columns << " " << deviation;
      }
    }
  }
}

TEST(GridSearch, TheFirstOfEqualCandidatesWins) {
  const at::Tensor x = gaussian(5, 40, "x"), scale = at::empty({3, 5}, at::kFloat).fill_(0.25);
  EXPECT_TRUE(best_candidates(x, scale, {}, -8.0, 7.0).eq(0).all().item<bool>());
}

}  // namespace
}  // namespace osp
