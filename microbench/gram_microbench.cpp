// Speed of the Hessian's symmetric product G += XᵀX of bf16 rows beside the tensor library's full
// products of the same rows in bf16 (whose result is rounded to bf16) and in fp32. All are measured
// in turn in one run; medians. GFLOP/s count the full product, so that all three can be compared.
//   gram_microbench [ROWS [REPETITIONS]]
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

#include <cstdlib>

#include "microbench/timing.h"
#include "osp/ops/gram.h"
#include "osp/ops/isa.h"
#include "osp/ops/tensor_library.h"

int main(int argc, char** argv) {
  osp::prepare_tensor_library();
  const int64_t rows = argc > 1 ? std::atoll(argv[1]) : 8192;
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 5;
  fmt::print("{} rows, {}{}\n{:>8} {:>14} {:>14} {:>14}\n", rows, osp::isa_name(osp::active_isa()),
             osp::has_avx512_bf16() ? " with bf16 products" : "", "columns", "ours, GFLOP/s",
             "mm bf16", "mm fp32");
  for (const int64_t columns : {576, 1536, 2048, 4096}) {
    const at::Tensor x = at::randn({rows, columns}), half = x.to(at::kBFloat16);
    at::Tensor gram = at::zeros({columns, columns}, at::kFloat);
    const auto seconds =
        osp::median_seconds({[&] { osp::add_gram(gram, half); }, [&] { at::mm(half.t(), half); },
                             [&] { at::mm(x.t(), x); }},
                            repetitions);
    const double work = 2e-9 * static_cast<double>(rows * columns * columns);
    fmt::print("{:>8} {:>14.0f} {:>14.0f} {:>14.0f}\n", columns, work / seconds[0],
               work / seconds[1], work / seconds[2]);
  }
  return 0;
}
