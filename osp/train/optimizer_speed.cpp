#include "osp/train/optimizer_speed.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <sstream>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/memory.h"
#include "osp/formats/safetensors.h"
#include "osp/optim/make_optimizers.h"
#include "osp/train/speed.h"

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

ModelConfig paper_shape(int64_t layers, int64_t width, int64_t heads) {
  ModelConfig config;
  config.layers = layers;
  config.width = width;
  config.heads = heads;
  config.vocabulary = 49152;
  return config;
}

double seconds_of_process() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double middle(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void time_steps(Optimizer& optimizer, StepValues values, int64_t steps, GroupSpeed& speed) {
  std::vector<double> seconds, cpu_seconds;
  for (int64_t i = 0; i <= steps; ++i, ++values.step) {
    const auto start = std::chrono::steady_clock::now();
    const double cpu_start = seconds_of_process();
    optimizer.step(values);
    if (i == 0) continue;
    cpu_seconds.push_back(seconds_of_process() - cpu_start);
    seconds.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  speed.seconds = middle(seconds);
  speed.cpu_seconds = middle(cpu_seconds);
}

TensorEntry first_matrix(const at::Tensor& bank, const std::string& name) {
  const at::Tensor matrix = bank.select(0, 0);
  return {name,
          "F32",
          matrix.sizes().vec(),
          {static_cast<const std::byte*>(matrix.const_data_ptr()), matrix.nbytes()}};
}

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
  if (name == "125m") return {resolved(paper_shape(12, 768, 12))};
  if (name == "1.4b-layer") return {resolved(paper_shape(1, 2048, 16)), 0};
  return {resolved(speed_recipe(name).model)};
}

OptimizerSpeed measure_optimizer_speed(const TimedModel& model, const OptimConfig& config,
                                       int64_t steps, const std::string& updates) {
  std::vector<ParameterSpec> specs = parameter_specs(model.config);
  if (model.part) {
    std::erase_if(specs, [&](const ParameterSpec& spec) { return spec.layer != *model.part; });
  }
  const Routing routing = route_parameters(specs, config, model.config.head_size);
  ParameterStore store = make_parameters(
      model.config, {.gradients = true, .group = routing.group_of, .part = model.part});
  const auto optimizers = make_optimizers(store, routing, config);
  OptimizerSpeed speed{.startup_seconds = seconds_since_process_start()};
  for (Bank& bank : store.banks) {
    bank.master.normal_(0, 0.02);
    bank.gradient.normal_(0, 1);
  }
  for (size_t i = 0; i < optimizers.size(); ++i) {
    const OptimizerGroup& group = routing.groups[i];
    GroupSpeed row{.name = group.name, .kind = group.kind};
    std::vector<Bank*> members;
    for (Bank& bank : store.banks) {
      if (bank.group != static_cast<int64_t>(i)) continue;
      members.push_back(&bank);
      row.banks.push_back({bank.master.size(0), bank.master.size(1), bank.master.size(2)});
      row.parameters += bank.master.numel();
      row.bytes += static_cast<int64_t>(bank.master.nbytes());
    }
    for (const auto& [name, tensor] : optimizers[i]->state()) {
      row.bytes += static_cast<int64_t>(tensor.nbytes());
    }
    const StepValues values{.step = 1,
                            .lr = config.lr * group.lr_scale,
                            .momentum = config.momentum,
                            .weight_decay = group.decays ? config.weight_decay : 0};
    time_steps(*optimizers[i], values, steps, row);
    if (!updates.empty() && group.kind == OptimizerKind::muon) {
      write_updates(members, *optimizers[i], values, updates);
    }
    speed.groups.push_back(std::move(row));
  }
  speed.peak_memory_bytes = peak_memory_bytes();
  return speed;
}

}  // namespace osp
