// Every instruction set's row kernels against the portable ones.
#include "osp/ops/kernels.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "osp/ops/isa.h"
#include "osp/ops/test_operators.h"

namespace osp {
namespace {

// Calls visit(name, table) for every level that this CPU has.
void for_each_table(const std::function<void(const kernels::Kernels&)>& visit) {
  visit(kernels::row_kernels_portable());
  if (detect_isa() >= Isa::avx2) visit(kernels::row_kernels_avx2());
  if (detect_isa() >= Isa::avx512) visit(kernels::row_kernels_avx512());
}

TEST(Kernels, EqualThePortableOnesOnEveryInstructionSet) {
  at::manual_seed(7);
  const int64_t rows = 5, D = 129;
  const at::Tensor x = at::randn({rows, D}), dy = at::randn({rows, D}), gain = at::randn({D});
  const at::Tensor wide = at::randn({rows, 2 * D}) * 20;
  for_each_table([&](const kernels::Kernels& table) {
    std::vector<at::Tensor> results[2];
    for (int side = 0; side < 2; ++side) {
      const auto& k = (side == 0 ? kernels::row_kernels_portable() : table).f32;
      at::Tensor y = at::zeros({rows, D}), s = at::zeros({rows}), dx = at::zeros({rows, D});
      at::Tensor dg = at::zeros({D}), out = at::zeros({rows, D}), z = wide.clone();
      at::Tensor losses = at::zeros({rows});
      k.rms_norm_forward(x.data_ptr<float>(), nullptr, nullptr, y.data_ptr<float>(),
                         s.data_ptr<float>(), gain.data_ptr<float>(), 1, rows, D, 1e-5f);
      at::Tensor again = at::zeros({rows, D});
      for (const auto& [values, stride] : {std::pair<const float*, int64_t>(nullptr, 0),
                                           {gain.data_ptr<float>(), 0},
                                           {gain.data_ptr<float>(), 1}}) {
        k.rms_norm_forward(x.data_ptr<float>(), nullptr, nullptr, y.data_ptr<float>(),
                           s.data_ptr<float>(), values, stride, rows, D, 1e-5f);
        k.rms_norm_again(x.data_ptr<float>(), s.data_ptr<float>(), values, stride,
                         again.data_ptr<float>(), rows, D);
        EXPECT_TRUE(again.equal(y)) << table.name << " " << stride;
      }
      k.rms_norm_backward(x.data_ptr<float>(), s.data_ptr<float>(), gain.data_ptr<float>(), 1,
                          dy.data_ptr<float>(), nullptr, dx.data_ptr<float>(), dg.data_ptr<float>(),
                          rows, D);
      k.swiglu_forward(wide.data_ptr<float>(), out.data_ptr<float>(), rows, D);
      at::Tensor d_wide = at::zeros({rows, 2 * D}), d_wide_alone = at::zeros({rows, 2 * D});
      at::Tensor out_again = at::zeros({rows, D});
      k.swiglu_backward(wide.data_ptr<float>(), dy.data_ptr<float>(), d_wide.data_ptr<float>(),
                        out_again.data_ptr<float>(), rows, D);
      k.swiglu_backward(wide.data_ptr<float>(), dy.data_ptr<float>(),
                        d_wide_alone.data_ptr<float>(), nullptr, rows, D);
      EXPECT_TRUE(out_again.equal(out)) << table.name;
      EXPECT_TRUE(d_wide.equal(d_wide_alone)) << table.name;
      const std::vector<int64_t> targets = {0, 5, -1, 200, 2 * D - 1};
      k.cross_entropy(z.data_ptr<float>(), targets.data(), losses.data_ptr<float>(), rows, 2 * D,
                      true, 1.0f);
      results[side] = {y, s, dx, dg, out, d_wide, z, losses};
    }
    for (size_t i = 0; i < results[0].size(); ++i) {
      // Sums in another order and fused multiply-adds: a few units of fp32's last place.
      EXPECT_LT(relative_error(results[1][i], results[0][i]), 2e-6) << table.name << " " << i;
    }
  });
}

TEST(Kernels, ConvertBf16AsTheTensorLibraryDoes) {
  // accumulate() reads bf16 exactly; swiglu's store rounds: compare with a conversion of the fp32
  // result by the tensor library on values that include ties, infinities and NaN.
  at::Tensor x = at::randn({1, 64}) * 3;
  x[0][0] = std::numeric_limits<float>::infinity();
  x[0][1] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor rounded = x.to(at::kBFloat16);
  for_each_table([&](const kernels::Kernels& table) {
    at::Tensor sum = at::zeros({64});
    table.bf16.accumulate(sum.data_ptr<float>(),
                          static_cast<const kernels::Bf16*>(rounded.const_data_ptr()), 64);
    EXPECT_TRUE(sum.narrow(0, 2, 62).equal(rounded.to(at::kFloat)[0].narrow(0, 2, 62)));
    EXPECT_TRUE(std::isinf(sum[0].item<float>()));
    EXPECT_TRUE(std::isnan(sum[1].item<float>()));
    // cos = 1, sin = 0: rope copies, through fp32 and back.
    at::Tensor copy = at::zeros({1, 64}).to(at::kBFloat16);
    const at::Tensor one = at::ones({32}), zero = at::zeros({32});
    table.bf16.rope_token(static_cast<const kernels::Bf16*>(rounded.const_data_ptr()), 64,
                          static_cast<kernels::Bf16*>(copy.mutable_data_ptr()), 64,
                          one.data_ptr<float>(), zero.data_ptr<float>(), 1.0f, 1, 64);
    EXPECT_TRUE(copy.narrow(1, 2, 30).equal(rounded.narrow(1, 2, 30)));
  });
}

}  // namespace
}  // namespace osp
