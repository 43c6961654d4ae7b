// `osp bench optim`: the steps of osp's optimizers beside PyTorch's, group by group, and the
// throughput of whole training steps with each of them.
#pragma once

#include <fmt/ranges.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "osp/base/console.h"
#include "osp/base/json.h"
#include "osp/bench/optimizer_speed.h"
#include "osp/bench/turn.h"
#include "osp/optim/optimizers.h"

namespace osp {

struct OptimizerBench {
  std::string model = "125m";  // as in timed_model()
  std::vector<std::string> optimizers = {"osp"};
  int64_t batch_tokens = 131072;  // tokens of the step whose throughput is estimated; 0: none
  TurnOptions turn = {.peer = "bench/peers/optim_peer.py"};

  // All but `turn`.
  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Optimizers");
    visit("model", self.model, Choices{{"demo", "50m", "125m", "1.4b-layer"}},
          "model whose weights the optimizers step; 1.4b-layer = one block of the 1.4B model");
    visit("optimizers", self.optimizers,
          fmt::format("optimizer to time, as optim.name in a recipe: {}",
                      fmt::join(recipe_optimizer_names(), ", ")),
          {.value = "NAME"});
    visit("batch_tokens", self.batch_tokens, Range{0, 1099511627776.0},
          "tokens of the step whose throughput is estimated from forward, backward and optimizer; "
          "0 = no estimate",
          {.unit = "tokens"});
  }
};

// One row of the table: a group of one optimizer over all repetitions.
struct GroupRuns {
  std::vector<Json> ours;
  std::map<std::string, std::vector<Json>> peers;  // by name, one run per repetition
};

// The object that `osp bench optim --alone` prints.
Json optimizer_speed_json(const OptimizerSpeed& speed);

// Runs all optimizers and their peers in turn: {"optimizers": …, "overhead": …}. With
// `batch_tokens`, and a whole model, forward and backward are timed as well.
Json bench_optimizers(const OptimizerBench& bench, Console& console);

// The arithmetic of bench_optimizers().

// Medians over the repetitions; ratios are medians of the ratios of each pair.
Json summarize_group(const GroupRuns& runs);

// Sums over the groups of an optimizer; `runs` are the objects of its processes.
Json summarize_optimizer(const std::string& name, const std::vector<GroupRuns>& groups,
                         const std::vector<Json>& runs);

// Adds to every optimizer the throughput of a step of so many tokens, and its ratio to Adam's where
// Adam was timed. `seconds_per_token`: forward and backward, by optimizer.
void add_throughput(Json& optimizers, int64_t batch_tokens,
                    const std::map<std::string, double>& seconds_per_token);

// By how much OSP's step is longer than Adam's, as a share of the latter, against the tokens of a
// step; beside it the share of the model's FLOPs (6 P a token) that five plain Newton–Schulz steps
// are: 30 P n / (6 P B) = 5 n / B for P parameters in square matrices of n columns and B tokens.
// Empty unless both were timed.
Json overhead_curve(const Json& optimizers, int64_t width);

// One line per group and side.
std::string group_table(const Json& optimizers);

// One line per optimizer with forward and backward, and the curve.
std::string throughput_table(const Json& optimizers, const Json& curve, int64_t batch_tokens);

}  // namespace osp
