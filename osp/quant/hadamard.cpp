#include "osp/quant/hadamard.h"

#include <ATen/ops/add.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sub.h>

#include <bit>
#include <cmath>

#include "osp/base/error.h"

namespace osp {

void check_hadamard_size(int64_t size, const char* what) {
  if (size > 0 && std::has_single_bit(static_cast<uint64_t>(size))) return;
  fail(ErrorCode::unsupported,
       "{} is {}: the Hadamard transform of queries and keys needs a power of two; leave the KV "
       "cache at 16 bits (for example 4-4-16)",
       what, size);
}

at::Tensor hadamard_transform(const at::Tensor& x) {
  const int64_t size = x.size(-1);
  check_hadamard_size(size, "the transformed dimension");
  at::Tensor current = x.to(at::kFloat).contiguous();
  for (int64_t distance = 1; distance < size; distance *= 2) {
    at::Tensor next = at::empty_like(current);
    const at::Tensor from = current.view({-1, 2, distance}), to = next.view({-1, 2, distance});
    at::Tensor sums = to.select(1, 0), differences = to.select(1, 1);
    at::add_out(sums, from.select(1, 0), from.select(1, 1));
    at::sub_out(differences, from.select(1, 0), from.select(1, 1));
    current = next;
  }
  return current.div(std::sqrt(static_cast<double>(size))).view(x.sizes()).to(x.scalar_type());
}

std::vector<float> hadamard_matrix_reference(int64_t size) {
  std::vector<float> matrix;
  for (int64_t i = 0; i < size; ++i) {
    for (int64_t j = 0; j < size; ++j) {
      matrix.push_back(std::popcount(static_cast<uint64_t>(i & j)) % 2 == 0 ? 1.0f : -1.0f);
    }
  }
  return matrix;
}

}  // namespace osp
