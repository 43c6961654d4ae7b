#include "osp/bench/speed.h"

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <optional>
#include <sstream>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/memory.h"
#include "osp/base/philox.h"
#include "osp/base/temporary_folder.h"
#include "osp/base/timing.h"
#include "osp/data/dataset.h"
#include "osp/data/shards_writer.h"
#include "osp/train/device.h"
#include "osp/train/exchange.h"
#include "osp/train/flops.h"
#include "osp/train/state.h"
#include "osp/train/step.h"

namespace osp {
namespace {

// Uniformly random ids: speed does not depend on them.
void write_random_tokens(const std::string& path, int64_t count, int64_t vocabulary) {
  ShardSetWriter writer(path, {.vocabulary = vocabulary});
  const RandomStream random(1, "bench tokens");
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    ids.push_back(static_cast<int32_t>(random.below(i, vocabulary)));
  }
  writer.append("train", ids, 1);
  writer.commit();
}

}  // namespace

Recipe speed_recipe(const std::string& model, int64_t context,
                    const std::vector<std::string>& assignments) {
  Recipe recipe;
  recipe.train.batch_tokens = 8192;
  recipe.schedule.kind = "constant";
  recipe.schedule.warmup_steps = 0;
  recipe.model.vocabulary = 4096;
  if (model == "50m") {
    recipe.model.layers = 12;
    recipe.model.width = 512;
    recipe.model.heads = 8;
    recipe.model.context = 512;
    recipe.model.vocabulary = 10240;
  } else if (model == "125m") {
    recipe.model.layers = 12;
    recipe.model.width = 768;
    recipe.model.heads = 12;
    recipe.model.context = 1024;
    recipe.model.vocabulary = 32768;
  } else if (model != "demo") {
    fail(ErrorCode::usage, "unknown model {} to be timed; demo, 50m and 125m are known", model);
  }
  if (context > 0) recipe.model.context = context;
  recipe.train.micro_batch_sequences = 0;
  const FieldTable table = recipe_table(recipe);
  for (const std::string& assignment : assignments) table.assign_text(assignment);
  if (recipe.train.batch_tokens % recipe.model.context != 0) {
    fail(ErrorCode::usage, "--context {}: the step of {} tokens is no multiple of it",
         recipe.model.context, recipe.train.batch_tokens);
  }
  if (recipe.train.micro_batch_sequences == 0) {
    recipe.train.micro_batch_sequences = recipe.train.batch_tokens / recipe.model.context;
  }
  return recipe;
}

int64_t network_sent_bytes() {
  const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
  if (interface == nullptr || std::string(interface) == "lo") return -1;
  // A line is NAME: and 16 numbers, of which the ninth counts what was sent.
  std::ifstream file("/proc/self/net/dev");
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    std::string name;
    words >> name;
    if (name != std::string(interface) + ":") continue;
    int64_t number = 0;
    for (int i = 0; i < 9; ++i) words >> number;
    return number;
  }
  fail(ErrorCode::io, "/proc/self/net/dev has no interface {}", interface);
}

TrainingSpeed measure_training_speed(Recipe recipe, int64_t steps, bool profile,
                                     const Ranks& ranks) {
  const TemporaryFolder folder;
  const std::string tokens = folder.path() + "/tokens";
  write_random_tokens(tokens, 2 * recipe.train.batch_tokens + 1, recipe.model.vocabulary);
  // Make the state of a run on these tokens.
  recipe.data.path = tokens;
  recipe.train.steps = steps + 1;
  recipe = resolved_recipe(recipe, recipe.model.vocabulary);
  const TokenDataset data = TokenDataset::open(tokens, "train");
  const auto state = make_state(recipe, ranks);
  weights_of_first_rank(*state);
  TrainingSpeed speed;
  int64_t sent_before = -1;
  std::vector<double> seconds, cpu_seconds, data_seconds, optimizer_seconds, faults;
  std::optional<OpProfile> operators;
  for (int64_t step = 0; step <= steps; ++step) {
    // The first step allocates memory and is not counted, nor profiled.
    if (profile && step == 1) operators.emplace();
    if (step == 1) sent_before = network_sent_bytes();
    const int64_t faults_before = page_faults();
    const auto start = std::chrono::steady_clock::now();
    const double cpu_start = process_cpu_seconds();
    const StepReport report = train_step(*state, data, false);
    speed.loss = report.loss;
    const double taken = seconds_since(start);
    if (step == 0) continue;
    seconds.push_back(taken);
    cpu_seconds.push_back(process_cpu_seconds() - cpu_start);
    data_seconds.push_back(report.data_seconds);
    optimizer_seconds.push_back(report.optimizer_seconds);
    faults.push_back(double(page_faults() - faults_before));
  }
  // Medians of the timed steps; operators add up to all steps, so a profile wants the mean.
  speed.batch_tokens = recipe.train.batch_tokens;
  const double all_seconds = std::accumulate(seconds.begin(), seconds.end(), 0.0);
  speed.step_seconds = profile ? all_seconds / double(steps) : median(seconds);
  speed.cpu_seconds = median(cpu_seconds);
  speed.data_seconds = median(data_seconds);
  speed.optimizer_seconds = median(optimizer_seconds);
  speed.page_faults = median(faults);
  speed.tokens_per_s = static_cast<double>(recipe.train.batch_tokens) / speed.step_seconds;
  if (operators) speed.operators = operators->times();
  for (OpTime& time : speed.operators) {
    time.calls /= steps;
    time.seconds /= static_cast<double>(steps);
  }
  if (sent_before >= 0) {
    speed.sent_bytes = double(network_sent_bytes() - sent_before) / double(steps);
  }
  speed.model_flops_per_s = speed.tokens_per_s * model_flops_per_token(state->recipe.model);
  // The machine's own product rate, measured in this process.
  if (ranks.alone())
    speed.product_flops_per_s = measured_flops_per_s(recipe.train.precision, "cpu");
  speed.parameters = state->store.num_parameters();
  speed.peak_memory_bytes = peak_memory_bytes();
  return speed;
}

}  // namespace osp
