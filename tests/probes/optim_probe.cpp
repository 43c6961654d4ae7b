// optim_probe INPUT.safetensors OUTPUT.safetensors OPTIONS.json: runs one optimizer group
// on a bank.
//
// Input: "weight" [count, rows, cols] and "gradient.1" … "gradient.N", fp32; for K-FAC also
// "input.S" [count, tokens, cols] and "output_gradient.S" [count, tokens, rows]. Options: {"kind":
// NAME of a row of osp/optim/optimizers.cpp, "lr", "weight_decay", "momentum", "steps", "optim":
// {fields of [optim]}}. Output: "weight.S" after every step S and every state
// tensor "state.NAME" after the last.
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include <cstring>
#include <exception>

#include "osp/base/error.h"
#include "osp/formats/safetensors.h"
#include "osp/ops/isa.h"
#include "osp/ops/tensor_library.h"
#include "osp/optim/optimizers.h"

namespace osp {
namespace {

at::Tensor read_tensor(const SafetensorsFile& file, const std::string& name) {
  const TensorView& view = file.at(name);
  at::Tensor tensor = at::empty(view.shape, at::kFloat);
  OSP_CHECK(view.dtype == "F32" && view.data.size() == tensor.nbytes(), "{} is not F32", name);
  std::memcpy(tensor.data_ptr(), view.data.data(), view.data.size());
  return tensor;
}

// Sends a step's tokens through the matrices as linear layers.
void run_passes(const SafetensorsFile& file, const Bank& bank, int64_t step, Tap& tap) {
  const at::Tensor inputs = read_tensor(file, fmt::format("input.{}", step));
  const at::Tensor gradients = read_tensor(file, fmt::format("output_gradient.{}", step));
  for (const int64_t layer : bank.members) {
    tap.linear_input({&layer, 1}, inputs[layer]);
    tap.linear_output_gradient(layer, gradients[layer]);
  }
}

void run(const std::string& input, const std::string& output, const std::string& options_path) {
  const SafetensorsFile file = SafetensorsFile::open(input);
  const Json options = read_json_file(options_path);
  OptimConfig config;
  FieldTable table;
  table.add("optim", config);
  table.from_json(Json{{"optim", options["optim"]}}, options_path);
  Bank bank;
  bank.name = "bank";
  bank.master = read_tensor(file, "weight");
  bank.gradient = at::empty(bank.master.sizes(), at::kFloat);
  for (int64_t i = 0; i < bank.master.size(0); ++i) bank.members.push_back(i);
  const OptimizerRow& row = optimizer_row(options["kind"]);
  const auto optimizer = row.make({&bank}, {.name = row.name, .optimizer = &row}, config);

  std::vector<std::pair<std::string, at::Tensor>> results;
  for (int64_t step = 1; step <= options["steps"].get<int64_t>(); ++step) {
    bank.gradient.copy_(read_tensor(file, fmt::format("gradient.{}", step)));
    if (Tap* tap = optimizer->watch_step()) run_passes(file, bank, step, *tap);
    StepValues values;
    values.step = step;
    values.lr = options["lr"];
    values.momentum = options["momentum"];
    values.weight_decay = options["weight_decay"];
    optimizer->step(values);
    results.emplace_back(fmt::format("weight.{}", step), bank.master.clone());
  }
  for (const auto& [name, tensor] : optimizer->state()) {
    results.emplace_back("state." + name, tensor);
  }
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : results) {
    const auto* bytes = static_cast<const std::byte*>(tensor.data_ptr());
    entries.push_back({name,
                       tensor.scalar_type() == at::kLong   ? "I64"
                       : tensor.scalar_type() == at::kChar ? "I8"
                                                           : "F32",
                       tensor.sizes().vec(),
                       {bytes, tensor.nbytes()}});
  }
  write_safetensors(output, entries);
}

}  // namespace
}  // namespace osp

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    osp::prepare_tensor_library();
    osp::prepare_vector_functions();
    osp::active_isa();  // refuses a level that this CPU lacks, also where no kernel asks
    osp::run(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    fmt::print(stderr, "optim_probe: {}\n", error.what());
    return 1;
  }
  return 0;
}
