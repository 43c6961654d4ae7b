#include "osp/bench/optimizer_speed.h"

#include <time.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <numeric>
#include <sstream>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/memory.h"
#include "osp/base/timing.h"
#include "osp/bench/speed.h"
#include "osp/formats/safetensors.h"
#include "osp/optim/muon.h"
#include "osp/optim/optimizers.h"

namespace osp {
namespace {

// Field 22 of the process's entry counts clock ticks from the start of the machine to its own.
double seconds_since_process_start() {
  const std::string entry = read_file("/proc/self/stat");
  std::istringstream words(entry.substr(entry.rfind(')') + 2));
  std::string word;
  for (int field = 3; field <= 22; ++field) words >> word;
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec) -
         std::stod(word) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

// Steps the optimizer through one period without timing, then through as many whole periods
// as hold `steps`.
void time_steps(Optimizer& optimizer, StepValues values, int64_t steps, int64_t period,
                GroupSpeed& speed) {
  const int64_t timed = (steps + period - 1) / period * period;
  std::vector<double> seconds, cpu_seconds;
  for (int64_t i = 0; i < period + timed; ++i, ++values.step) {
    const auto start = std::chrono::steady_clock::now();
    const double cpu_start = process_cpu_seconds();
    optimizer.step(values);
    if (i < period) continue;
    cpu_seconds.push_back(process_cpu_seconds() - cpu_start);
    seconds.push_back(seconds_since(start));
  }
  speed.seconds = period == 1 ? median(seconds) : mean(seconds);
  speed.cpu_seconds = period == 1 ? median(cpu_seconds) : mean(cpu_seconds);
}

// The first matrix of a bank, to be stored under that name.
TensorEntry first_matrix(const at::Tensor& bank, const std::string& name) {
  const at::Tensor matrix = bank.select(0, 0);
  return {name,
          "F32",
          matrix.sizes().vec(),
          {static_cast<const std::byte*>(matrix.const_data_ptr()), matrix.nbytes()}};
}

// Writes the gradients and the updates that Muon makes of them: one step at rate 1 from zero
// weights and zero momentum.
void write_updates(const std::vector<Bank*>& banks, Optimizer& muon, const StepValues& values,
                   const std::string& path) {
  for (Bank* bank : banks) bank->master.zero_();
  for (const auto& [name, tensor] : muon.state()) at::Tensor(tensor).zero_();
  muon.step({.step = 1, .lr = 1, .momentum = values.momentum});
  std::vector<TensorEntry> entries;
  for (size_t i = 0; i < banks.size(); ++i) {
    entries.push_back(first_matrix(banks[i]->gradient, fmt::format("gradient.{}", i)));
    entries.push_back(first_matrix(banks[i]->master, fmt::format("weight.{}", i)));
  }
  write_safetensors(path, entries);
}

}  // namespace

TimedModel timed_model(const std::string& name) {
  if (name == "1.4b-layer") {
    ModelConfig config;
    config.layers = 1;
    config.width = 2048;
    config.heads = 16;
    config.vocabulary = 49152;
    return {resolved_config(config), 0};
  }
  return {resolved_config(speed_recipe(name).model)};
}

OptimizerSpeed measure_optimizer_speed(const TimedModel& model, const OptimConfig& config,
                                       int64_t steps, const std::string& updates) {
  // Make the banks and the optimizers of the model, or of one block.
  std::vector<ParameterSpec> specs = parameter_specs(model.config);
  if (model.part) {
    std::erase_if(specs, [&](const ParameterSpec& spec) { return spec.layer != *model.part; });
  }
  const Routing routing = route_parameters(specs, config, model.config.head_size);
  ParameterStore store = make_parameters(
      model.config, {.gradients = true, .group = routing.group_of, .part = model.part});
  const auto optimizers = make_optimizers(store, routing, config);
  OptimizerSpeed speed{.startup_seconds = seconds_since_process_start()};
  // Fill weights and gradients with random numbers.
  for (Bank& bank : store.banks) {
    bank.master.normal_(0, 0.02);
    bank.gradient.normal_(0, 1);
  }
  for (size_t i = 0; i < optimizers.size(); ++i) {
    const OptimizerGroup& group = routing.groups[i];
    GroupSpeed row{.name = group.name, .optimizer = group.optimizer};
    // Count parameters and bytes, the latter also by formula.
    std::vector<Bank*> members;
    for (Bank& bank : store.banks) {
      if (bank.group != static_cast<int64_t>(i)) continue;
      members.push_back(&bank);
      row.banks.push_back({bank.master.size(0), bank.master.size(1), bank.master.size(2)});
      row.parameters += bank.master.numel();
      row.bytes += static_cast<int64_t>(bank.master.nbytes());
      row.formula_bytes += static_cast<double>(bank.master.nbytes());
    }
    for (size_t p = 0; p < specs.size(); ++p) {
      if (routing.group_of[p] != static_cast<int64_t>(i)) continue;
      row.formula_bytes += optimizer_state_bytes(group, specs[p].shape, config);
    }
    for (const auto& [name, tensor] : optimizers[i]->state()) {
      row.bytes += static_cast<int64_t>(tensor.nbytes());
    }
    // Time the steps.
    const StepValues values{.step = 1,
                            .lr = config.lr * group.lr_scale,
                            .momentum = config.momentum,
                            .weight_decay = group.decays ? config.weight_decay : 0};
    time_steps(*optimizers[i], values, steps, group.optimizer->period(config), row);
    if (!updates.empty() && group.optimizer == &kMuonRow) {
      write_updates(members, *optimizers[i], values, updates);
    }
    speed.groups.push_back(std::move(row));
  }
  speed.peak_memory_bytes = peak_memory_bytes();
  return speed;
}

}  // namespace osp
