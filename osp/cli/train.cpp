// osp train: trains the model that a recipe describes.
#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/json_text.h"
#include "osp/base/output.h"
#include "osp/cli/command.h"
#include "osp/optim/routing.h"
#include "osp/train/flops.h"
#include "osp/train/loop.h"
#include "osp/train/training_data.h"

namespace osp {
namespace {

struct TrainCommand {
  CommonOptions common;
  std::string recipe;
  std::vector<std::string> assignments;
  std::string device;
  int64_t ranks = 1;
  bool dry = false;
  TrainOptions train;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_recipe(visit, self.recipe, self.assignments);
    visit("device", self.device, "device to train on instead of the recipe's: cpu or cuda",
          {.value = "NAME", .affects_results = false});
    TrainOptions::fields(visit, self.train);
    visit("ranks", self.ranks, Range{1, 4096},
          "processes to train with on this machine, with `python -m osp train` (docs/cluster.md)",
          {.affects_results = false});
    visit("dry_run", self.dry,
          "check recipe and data, and print the complete recipe, the model's size and the memory "
          "needed, of a rank with --ranks, without training",
          {.affects_results = false});
    CommonOptions::fields(visit, self.common);
  }
};

void print_dry_run(const Json& description) {
  for (const auto& [section, values] : description["recipe"].items()) {
    print_out("[{}]\n", section);
    for (const auto& [key, value] : values.items()) {
      if (!value.is_array()) print_out("{} = {}\n", key, json_text(value));
    }
    print_out("\n");
    // Tables of a list come behind the section's keys.
    for (const auto& [key, value] : values.items()) {
      if (!value.is_array()) continue;
      for (const Json& table : value) {
        print_out("[[{}.{}]]\n", section, key);
        for (const auto& [name, inner] : table.items()) {
          print_out("{} = {}\n", name, json_text(inner));
        }
        print_out("\n");
      }
    }
  }
  print_out("{}\n", description["routing_table"].get<std::string>());
  print_out("parameters          {}\n", format_count(description["parameters"].get<int64_t>()));
  print_out("steps               {}\n", format_count(description["steps"].get<int64_t>()));
  print_out("tokens              {}\n", format_count(description["tokens"].get<int64_t>()));
  if (description.contains("data")) print_out("{}", sources_text(description["data"]));
  print_out("micro-batch         {} sequences\n",
            description["micro_batch_sequences"].get<int64_t>());
  print_out("model FLOPs         {:.3g} a token, {:.3g} in all\n",
            description["flops_per_token"].get<double>(), description["flops"].get<double>());
  print_out("memory (estimated)\n");
  for (const auto& [part, bytes] : description["memory_bytes"].items()) {
    if (bytes.get<double>() > 0) {
      print_out("  {:<18}{}\n", part, format_bytes(bytes.get<double>()));
    }
  }
}

int run(const TrainCommand& options) {
  if (options.dry) {
    refuse_given(options.common,
                 {"resume", "auto_resume", "resume_from", "init_from", "with_optimizer"},
                 "--dry-run describes a new run of the recipe");
  }
  if (options.train.auto_resume && !options.train.resume_from.empty()) {
    fail(ErrorCode::usage,
         "--auto-resume with --resume-from {}: every start of the job would set the later "
         "checkpoints aside again; go back once with --resume-from alone, then start the job with "
         "--auto-resume alone",
         options.train.resume_from);
  }
  if (options.ranks > 1 && !options.dry) {
    fail(ErrorCode::usage,
         "--ranks {}: many processes are started by Python; run `python -m osp train --ranks {}` "
         "or torchrun with the same words (docs/cluster.md)",
         options.ranks, options.ranks);
  }
  Recipe recipe = load_recipe(options.recipe, options.assignments);
  if (!options.device.empty()) {
    recipe_table(recipe).assign("train.device", options.device, "--device");
  }
  Console console(options.common.quiet);
  if (options.dry) {
    const Json description = dry_run(recipe, options.ranks, console);
    const auto without_table = [&] {
      Json json = description;
      json.erase("routing_table");
      return json;
    };
    print_result(options.common, without_table, [&] { print_dry_run(description); });
    return 0;
  }
  TrainOptions train_options = options.train;
  if (train_options.out.empty()) {
    train_options.out = "runs/" + std::filesystem::path(options.recipe).stem().string();
  }
  train_options.out = resolved_output(train_options.out);  // held by the lock inside
  catch_signals();
  const Json result = train(recipe, train_options, console);
  if (result.is_null()) return 0;  // the first rank prints it
  print_result(
      options.common, [&] { return result; },
      [&] { print_out("{}\n", result["model"].get<std::string>()); });
  return 0;
}

}  // namespace

void add_train(CommandLine& line) {
  line.command<TrainCommand>("train", "train the model that a recipe describes", run);
}

}  // namespace osp
