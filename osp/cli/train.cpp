// osp train: from a recipe to a model.
#include <filesystem>
#include <memory>

#include "osp/base/interrupt.h"
#include "osp/cli/command.h"
#include "osp/optim/routing.h"
#include "osp/train/flops.h"
#include "osp/train/loop.h"

namespace osp {
namespace {

struct TrainArguments {
  CommonOptions common;
  std::string recipe;
  std::vector<std::string> assignments;
  std::string device;
  bool dry = false;
  TrainOptions train;
};

void print_dry_run(const Json& description) {
  for (const auto& [section, values] : description["recipe"].items()) {
    fmt::print("[{}]\n", section);
    for (const auto& [key, value] : values.items()) fmt::print("{} = {}\n", key, value.dump());
    fmt::print("\n");
  }
  fmt::print("{}\n", description["routing_table"].get<std::string>());
  fmt::print("parameters          {}\n", format_count(description["parameters"].get<int64_t>()));
  fmt::print("steps               {}\n", format_count(description["steps"].get<int64_t>()));
  fmt::print("tokens              {}\n", format_count(description["tokens"].get<int64_t>()));
  fmt::print("micro-batch         {} sequences\n",
             description["micro_batch_sequences"].get<int64_t>());
  fmt::print("model FLOPs         {:.3g} a token, {:.3g} in all\n",
             description["flops_per_token"].get<double>(), description["flops"].get<double>());
  fmt::print("memory (estimated)\n");
  for (const auto& [part, bytes] : description["memory_bytes"].items()) {
    fmt::print("  {:<18}{}\n", part, format_bytes(bytes.get<double>()));
  }
}

int run(const TrainArguments& options) {
  Recipe recipe = load_recipe(options.recipe, options.assignments);
  if (!options.device.empty()) {
    recipe_table(recipe).assign("train.device", options.device, "--device");
  }
  if (options.dry) {
    Json description = dry_run(recipe);
    if (options.common.json) {
      description.erase("routing_table");
      print_json(description);
    } else {
      print_dry_run(description);
    }
    return 0;
  }
  TrainOptions train_options = options.train;
  if (train_options.out.empty()) {
    train_options.out = "runs/" + std::filesystem::path(options.recipe).stem().string();
  }
  catch_signals();
  Console console(options.common.quiet);
  const Json result = train(recipe, train_options, console);
  if (options.common.json) {
    print_json(result);
  } else {
    fmt::print("{}\n", result["model"].get<std::string>());
  }
  return 0;
}

}  // namespace

void add_train(CommandLine& line) {
  auto options = std::make_shared<TrainArguments>();
  Command command = line.command("train", "train a model by a recipe");
  add_common_options(command, options->common);
  command.add("recipe", options->recipe, "TOML file").required();
  command.add("--set", options->assignments,
              "section.key=value over the recipe's; may be given several times");
  command.add("--out", options->train.out, "run folder; runs/NAME of the recipe otherwise");
  command.add("--resume", options->train.resume,
              "go on from the newest checkpoint of the run folder");
  const Option from = command.add("--init-from", options->train.init_from,
                                  "model dir or checkpoint with the first weights");
  command
      .add("--with-optimizer", options->train.with_optimizer,
           "take the optimizer state from there as well")
      .needs(from);
  command.add("--dry-run", options->dry, "print what would be done; allocate nothing");
  command.add("--device", options->device, "cpu or cuda, over the recipe's");
  command.runs([options] { return run(*options); });
}

}  // namespace osp
