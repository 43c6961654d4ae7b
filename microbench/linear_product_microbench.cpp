// The integer engine's linear layers against the machine's limits, on one thread: the rate of
// products in registers for many rows, and the rate of a plain read for one row, both measured in
// the same process in turn with the layers. The arithmetic is osp/runtime/linear_product.h's,
// scales and output included.
//   OSP_ISA=avx2 linear_product_microbench [REPETITIONS]
#include <ATen/ops/full.h>
#include <ATen/ops/randint.h>
#include <fmt/format.h>

#include <cstdlib>

#include "microbench/timing.h"
#include "osp/bench/plain_read.h"
#include "osp/ops/tensor_library.h"
#include "osp/runtime/engine.h"
#include "osp/runtime/linear_product.h"

namespace {

constexpr int64_t kPeakSteps = 2'000'000;

osp::PackedLinear random_linear(int64_t outputs, int64_t columns) {
  osp::QuantizedLinear weight;
  weight.codes = at::randint(-8, 8, {outputs, columns}).to(at::kChar);
  weight.scale = at::full({outputs, 1}, 0.01f);
  osp::LinearPart part;
  part.weight = &weight;
  return osp::pack_linear({part}, columns, false);
}

// Rows of codes as the quantizer would leave them.
void fill(osp::CodeBuffer& buffer, int64_t rows, int64_t columns) {
  const osp::kernels::CodeGrid grid{.group = columns, .segment = columns};
  buffer.resize(rows, columns, grid);
  const at::Tensor numbers = at::randint(0, 16, {columns}).to(at::kFloat);
  for (int64_t r = 0; r < rows; ++r) {
    osp::active_engine_kernels().quantize(numbers.const_data_ptr<float>(), nullptr, columns, grid,
                                          buffer.row(r));
  }
}

}  // namespace

int main(int argc, char** argv) {
  osp::prepare_tensor_library();
  const int repetitions = argc > 1 ? std::atoi(argv[1]) : 5;
  const osp::kernels::CodeProducts& products = osp::active_code_products();
  const osp::kernels::EngineKernels& kernels = osp::active_engine_kernels();
  osp::WorkerPool pool(1);
  fmt::print("{}, {}\n", products.name, kernels.name);
  fmt::print("{:>6} {:>8} {:>8} {:>12} {:>10}\n", "rows", "outputs", "columns", "Gop/s", "of peak");
  for (const auto& [outputs, columns] : {std::pair<int64_t, int64_t>{1536, 576},
                                         {576, 1536},
                                         {2048, 2048},
                                         {5504, 2048},
                                         {2048, 5504}}) {
    const osp::PackedLinear weight = random_linear(outputs, columns);
    for (const int64_t rows : {8, 64}) {
      osp::CodeBuffer codes(products.wide != nullptr);
      fill(codes, rows, columns);
      std::vector<float> out(static_cast<size_t>(rows * outputs));
      const double ops = 2.0 * static_cast<double>(rows * outputs * columns);
      const auto times = 1 + static_cast<int64_t>(4e9 / ops);
      const auto work = [&] {
        for (int64_t i = 0; i < times; ++i) {
          osp::linear_product(codes, weight, kernels, products, nullptr, out.data(), pool);
        }
      };
      int64_t multiply_adds = 0;
      const auto seconds = osp::median_seconds(
          {work, [&] { multiply_adds = products.register_products(kPeakSteps); }}, repetitions,
          osp::process_cpu_seconds);
      const double rate = 1e-9 * ops * static_cast<double>(times) / seconds[0];
      const double peak = 2e-9 * static_cast<double>(multiply_adds) / seconds[1];
      fmt::print("{:>6} {:>8} {:>8} {:>12.0f} {:>10.2f}\n", rows, outputs, columns, rate,
                 rate / peak);
    }
  }
  // One row and more weights than any cache holds.
  const osp::AlignedMemory memory = osp::memory_to_read();
  const auto bytes = static_cast<int64_t>(memory.bytes());
  const int64_t columns = 2048, outputs = 2 * bytes / columns;
  const osp::PackedLinear weight = random_linear(outputs, columns);
  fmt::print("{:>6} {:>8} {:>8} {:>12} {:>10}\n", "rows", "outputs", "columns", "GB/s", "of read");
  for (const int64_t rows : {1, 2}) {
    osp::CodeBuffer codes(products.wide != nullptr);
    fill(codes, rows, columns);
    std::vector<float> out(static_cast<size_t>(rows * outputs));
    const auto seconds = osp::median_seconds(
        {[&] { osp::linear_product(codes, weight, kernels, products, nullptr, out.data(), pool); },
         [&] { osp::plain_read(memory); }},
        repetitions, osp::process_cpu_seconds);
    fmt::print("{:>6} {:>8} {:>8} {:>12.1f} {:>10.2f}\n", rows, outputs, columns,
               1e-9 * static_cast<double>(bytes) / seconds[0], seconds[1] / seconds[0]);
  }
  return 0;
}
