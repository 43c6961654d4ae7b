#include "osp/ops/hadamard.h"

#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/sub.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/ops/hadamard_kernels.h"
#include "osp/ops/isa.h"
#include "osp/ops/with_gradient.h"

namespace osp {
namespace {

constexpr int64_t kNumbersPerTask = 1 << 15;

const kernels::HadamardKernels& active_hadamard_kernels() {
  static const kernels::HadamardKernels table =
      for_active_isa(kernels::hadamard_kernels_portable, kernels::hadamard_kernels_avx2,
                     kernels::hadamard_kernels_avx512);
  return table;
}

at::Tensor dense_matrix(int64_t n, const at::TensorOptions& options) {
  std::vector<int8_t> entries = hadamard_matrix(n);
  return at::from_blob(entries.data(), {n, n}, at::TensorOptions().dtype(at::kChar))
      .to(options.dtype(), /*non_blocking=*/false, /*copy=*/true)
      .to(options.device());
}

// x [rows, blocks · base] · (H_blocks ⊗ I) / divisor, in place: rows in parallel, each in cache.
void butterflies_on_cpu(at::Tensor& x, const HadamardFactors& factors, double divisor) {
  const int64_t size = x.size(1);
  const auto& k = active_hadamard_kernels();
  at::parallel_for(0, x.size(0), std::max<int64_t>(1, kNumbersPerTask / size),
                   [&](int64_t begin, int64_t end) {
                     if (x.scalar_type() == at::kDouble) {
                       k.f64(x.mutable_data_ptr<double>() + begin * size, end - begin,
                             factors.blocks, factors.base, divisor);
                     } else {
                       k.f32(x.mutable_data_ptr<float>() + begin * size, end - begin,
                             factors.blocks, factors.base, static_cast<float>(divisor));
                     }
                   });
}

// The butterflies by the tensor library, for other devices.
void butterflies_elsewhere(at::Tensor& x, const HadamardFactors& factors, double divisor) {
  at::Tensor current = x;
  for (int64_t distance = factors.base; distance < x.size(1); distance *= 2) {
    at::Tensor next = at::empty_like(current);
    const at::Tensor from = current.view({-1, 2, distance}), to = next.view({-1, 2, distance});
    at::Tensor sums = to.select(1, 0), differences = to.select(1, 1);
    at::add_out(sums, from.select(1, 0), from.select(1, 1));
    at::sub_out(differences, from.select(1, 0), from.select(1, 1));
    current = next;
  }
  x = current.div(divisor);
}

at::Tensor transform(const at::Tensor& x, int64_t block, bool transposed) {
  const HadamardFactors factors = hadamard_factors(block);
  const at::ScalarType wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor y = x.to(wide).contiguous();
  if (factors.base > 1) {
    const at::Tensor base = dense_matrix(factors.base, y.options());
    y = at::matmul(y.view({-1, factors.base}), transposed ? base.t() : base);
  } else if (y.is_alias_of(x)) {
    y = y.clone();
  }
  y = y.view({-1, block});
  const double divisor = std::sqrt(static_cast<double>(block));
  if (y.device().is_cpu()) {
    butterflies_on_cpu(y, factors, divisor);
  } else {
    butterflies_elsewhere(y, factors, divisor);
  }
  return y.view(x.sizes()).to(x.scalar_type());
}

int64_t checked_block(const at::Tensor& x, const HadamardOptions& options) {
  const int64_t size = x.size(-1), block = options.block == 0 ? size : options.block;
  OSP_CHECK(block > 0 && size % block == 0, "blocks of {} in rows of {}", block, size);
  check_hadamard_size(block, "the transformed dimension");
  return block;
}

}  // namespace

at::Tensor hadamard_transform(const at::Tensor& x, const HadamardOptions& options) {
  const int64_t block = checked_block(x, options);
  const bool transposed = options.transposed;
  return with_gradient(x, transform(x.detach(), block, transposed),
                       [=](const at::Tensor& dy) { return transform(dy, block, !transposed); });
}

at::Tensor hadamard_transform_reference(const at::Tensor& x, const HadamardOptions& options) {
  const int64_t block = checked_block(x, options);
  const at::Tensor h = dense_matrix(block, x.options().dtype(at::kDouble));
  const at::Tensor rows = x.to(at::kDouble).reshape({-1, block});
  return at::matmul(rows, options.transposed ? h.t() : h)
      .div(std::sqrt(static_cast<double>(block)))
      .view(x.sizes())
      .to(x.scalar_type());
}

}  // namespace osp
