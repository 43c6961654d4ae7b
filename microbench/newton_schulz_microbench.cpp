// Speed and error of five Newton–Schulz steps on one matrix, on one thread or several, by each
// implementation in osp, measured in turn; medians of the CPU seconds of all threads together.
//   library          the tensor library's products in bf16, full or by symmetric blocks
//   fp32             the tensor library's products in fp32
//   panels           osp/optim/panel_iteration.h
//   panels, paired   panels with the first two steps joined
// GFLOP/s count full products everywhere, so that they can be compared. Errors are relative to the
// same iteration in fp64.
//   newton_schulz_microbench [THREADS [REPETITIONS]]
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <functional>

#include "microbench/timing.h"
#include "osp/ops/isa.h"
#include "osp/ops/parallel.h"
#include "osp/ops/tensor_library.h"
#include "osp/optim/newton_schulz.h"
#include "osp/optim/panel_iteration.h"
#include "osp/optim/symmetric_product.h"

namespace {

const osp::NewtonSchulz kSettings = osp::newton_schulz_settings({});

// `block` 0: full products.
at::Tensor by_library(at::Tensor x, int64_t block) {
  const int64_t n = x.size(0);
  const at::Tensor gram = at::empty({n, n}, x.options()),
                   polynomial = at::empty({n, n}, x.options());
  at::Tensor next = at::empty(x.sizes(), x.options());
  at::Tensor gram_out = gram, polynomial_out = polynomial;
  x = x.clone();
  for (const auto& [a, b, c] : kSettings.steps) {
    if (block == 0) {
      at::mm_out(gram_out, x, x.t());
      at::addmm_out(polynomial_out, gram, gram, gram, b, c);
    } else {
      osp::symmetric_product(gram, x, x.t(), 1, gram, 0, block);
      osp::symmetric_product(polynomial, gram, gram, c, gram, b, block);
    }
    at::addmm_out(next, x, polynomial, x, a, 1);
    std::swap(x, next);
  }
  return x;
}

at::Tensor by_panels(const at::Tensor& x, bool paired) {
  osp::PanelIteration iteration(x.size(0), x.size(1), osp::share_tasks);
  std::memcpy(iteration.data(), x.const_data_ptr(), x.nbytes());
  iteration.begin();
  const auto& steps = kSettings.steps;
  for (size_t i = 0; i < steps.size(); ++i) {
    if (paired && i == 0) {
      iteration.two_steps(steps[i], steps[i + 1]);
      ++i;
    } else {
      iteration.step(steps[i][0], steps[i][1], steps[i][2]);
    }
  }
  iteration.end();
  const at::Tensor result = at::empty(x.sizes(), x.options());
  std::memcpy(result.data_ptr(), iteration.data(), x.nbytes());
  return result;
}

}  // namespace

int main(int argc, char** argv) {
  osp::prepare_tensor_library();
  if (argc > 1) at::set_num_threads(std::atoi(argv[1]));
  const int repetitions = argc > 2 ? std::atoi(argv[2]) : 3;
  fmt::print("{} threads, {}{}\n", at::get_num_threads(), osp::isa_name(osp::active_isa()),
             osp::has_avx512_bf16() ? " with bf16 products" : "");
  fmt::print("{:>12} {:<18} {:>10} {:>10} {:>10}\n", "matrix", "way", "seconds", "GFLOP/s",
             "error");
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{768, 768}, {768, 2048}, {2048, 2048}, {2048, 5504}}) {
    const at::Tensor update = at::randn({rows, cols});
    const at::Tensor wide = update / at::linalg_vector_norm(update);
    const at::Tensor x = wide.to(at::kBFloat16);
    std::vector<std::pair<std::string, std::function<at::Tensor()>>> ways = {
        {"library", [&] { return by_library(x, 0); }},
        {"library, 256", [&] { return by_library(x, 256); }},
        {"library, 512", [&] { return by_library(x, 512); }},
        {"fp32", [&] { return by_library(wide, 0); }},
        {"fp32, 256", [&] { return by_library(wide, 256); }}};
    if (osp::has_avx512_bf16()) {
      ways.push_back({"panels", [&] { return by_panels(x, false); }});
      ways.push_back({"panels, paired", [&] { return by_panels(x, true); }});
    }
    std::vector<std::function<void()>> works;
    for (const auto& way : ways) works.emplace_back(way.second);
    const auto times = osp::median_seconds(works, repetitions, osp::process_cpu_seconds);
    const bool small = rows < 1000;
    const at::Tensor exact =
        small ? osp::newton_schulz_reference(update, kSettings, at::kDouble) : at::Tensor();
    const double work = 5 * 2e-9 * static_cast<double>(rows * rows * (2 * cols + rows));
    for (size_t i = 0; i < ways.size(); ++i) {
      const double error = small
                               ? (at::linalg_vector_norm(ways[i].second().to(at::kFloat) - exact) /
                                  at::linalg_vector_norm(exact))
                                     .item<double>()
                               : 0;
      fmt::print("{:>12} {:<18} {:>10.4f} {:>10.0f} {:>10.5f}\n", fmt::format("{}x{}", rows, cols),
                 ways[i].first, times[i], work / times[i], error);
    }
  }
  return 0;
}
