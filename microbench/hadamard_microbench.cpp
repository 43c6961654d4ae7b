// Speed of the fast Hadamard transform beside the dense product with the same matrix, both on fp32
// rows, in turn in one run; medians of the repetitions.
//   hadamard_microbench [ROWS [REPETITIONS]]
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include <cstdlib>

#include "microbench/timing.h"
#include "osp/ops/hadamard.h"
#include "osp/ops/isa.h"
#include "osp/ops/tensor_library.h"

int main(int argc, char** argv) {
  osp::prepare_tensor_library();
  const int64_t rows = argc > 1 ? std::atoll(argv[1]) : 512;
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 9;
  fmt::print("{} rows, fp32, {}\n{:>8} {:>6} {:>12} {:>12} {:>8} {:>10}\n", rows,
             osp::isa_name(osp::active_isa()), "size", "base", "fast", "dense", "ratio", "GB/s");
  for (const int64_t size : {64, 128, 768, 1536, 2048, 5504, 5632, 8192}) {
    const at::Tensor x = at::randn({rows, size});
    const at::Tensor dense = osp::hadamard_transform(at::eye(size));
    const auto seconds = osp::median_seconds(
        {[&] { osp::hadamard_transform(x); }, [&] { at::matmul(x, dense); }}, repetitions);
    const double fast = seconds[0], slow = seconds[1];
    fmt::print("{:>8} {:>6} {:>9.3f} ms {:>9.3f} ms {:>7.1f}x {:>10.1f}\n", size,
               osp::hadamard_factors(size).base, 1e3 * fast, 1e3 * slow, slow / fast,
               2.0 * static_cast<double>(rows * size) * 4 / fast / 1e9);
  }
  return 0;
}
