// osp plan: what a recipe's run would need and take on many devices.
#include "osp/train/plan.h"
#include "osp/base/error.h"
#include "osp/base/output.h"
#include "osp/base/quantity.h"
#include "osp/cli/command.h"
#include "osp/train/loop.h"
#include "osp/train/training_data.h"

namespace osp {
namespace {

struct PlanCommand {
  CommonOptions common;
  std::string recipe;
  std::vector<std::string> assignments;
  int64_t devices = 1;
  std::string memory, bandwidth, flops;
  double efficiency = Cluster().efficiency;
  double overlap = Cluster().overlap;
  int64_t split = 0;
  int64_t groups = 0;

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit_recipe(visit, self.recipe, self.assignments);
    visit.group("Devices");
    visit("devices", self.devices, Range{1, 1 << 20}, "number of devices (GPUs, or machines)",
          {.required = true});
    visit("memory", self.memory, "memory of a device, such as 32GiB; without it any layout fits",
          {.value = "AMOUNT"});
    visit("bandwidth", self.bandwidth,
          "what a device sends, and receives at the same time, such as 100GB/s or 200Mbit/s; "
          "needed for more than one device",
          {.value = "AMOUNT"});
    visit("flops", self.flops,
          "rate of a device's matrix products in the precision of the recipe, such as 275TFLOP/s; "
          "without it train.peak_tflops of the recipe",
          {.value = "AMOUNT"});
    visit("efficiency", self.efficiency, Range{0.001, 1.0},
          "share of the rate of --flops that forward and backward passes and Newton-Schulz reach");
    visit("overlap", self.overlap, Range{0.0, 1.0},
          "share of a step's last backward pass that hides the sending of gradients");
    visit.group("Layout");
    visit("split", self.split, Range{0, 1 << 20},
          "number of devices that own a matrix together; 0 = try powers of two");
    visit("groups", self.groups, Range{0, 1 << 20},
          "number of groups of --split devices that own matrices; 0 = as many as there are");
    CommonOptions::fields(visit, self.common);
  }
};

std::string seconds_text(double seconds) {
  if (seconds >= 1) return fmt::format("{:.2f} s", seconds);
  return seconds >= 1e-3 ? fmt::format("{:.1f} ms", seconds * 1e3)
                         : fmt::format("{:.0f} us", seconds * 1e6);
}

std::string layout_text(const Layout& layout) {
  return layout.split == 1 ? "a device" : fmt::format("{} devices", layout.split);
}

void print_memory(const DeviceMemory& memory) {
  const std::pair<const char*, double> parts[] = {
      {"program", memory.program},         {"weights", memory.weights},
      {"fp32 weights", memory.masters},    {"gradients", memory.gradients},
      {"optimizer", memory.optimizer},     {"exchange", memory.exchange},
      {"activations", memory.activations}, {"temporaries", memory.temporaries},
      {"snapshot", memory.snapshot},       {"total", memory.total()}};
  print_out("memory of the device that holds most (estimated)\n");
  for (const auto& [name, bytes] : parts) {
    if (bytes > 0) print_out("  {:<18}{}\n", name, format_bytes(bytes));
  }
}

void print_layouts(const Plan& plan) {
  print_out("\n{:<15}{:>7}{:>6}{:>9}{:>10}{:>11}{:>11}{:>10}{:>6}{:>9}\n", "a matrix is of",
            "groups", "busy", "balance", "NS", "wire", "memory", "step", "MFU", "of Adam");
  for (size_t i = 0; i < plan.layouts.size(); ++i) {
    const LayoutPlan& one = plan.layouts[i];
    print_out("{:<15}{:>7}{:>6}{:>9}{:>10}{:>11}{:>11}{:>10}{:>6}{:>9}{}\n",
              layout_text(one.layout), one.layout.groups, one.busy_groups,
              one.balance > 0 ? fmt::format("{:.2f}", one.balance) : "-",
              seconds_text(one.optimizer_s), format_bytes(one.gradient_bytes + one.weight_bytes),
              format_bytes(one.memory.total()), seconds_text(one.step_s),
              fmt::format("{:.0f}%", 100 * one.mfu), fmt::format("{:.2f}%", 100 * one.of_adam),
              i == plan.best ? "  best" : (one.fits ? "" : "  too large"));
  }
}

void print_plan(const Plan& plan, const Recipe& recipe) {
  const LayoutPlan& best = plan.layouts[plan.best];
  const Cluster& cluster = plan.cluster;
  print_out("parameters        {}, {} of them in {} matrices of Newton-Schulz\n",
            format_count(plan.parameters), format_count(static_cast<int64_t>(plan.matrix_scalars)),
            plan.matrices);
  print_out("devices           {}, at most {} sequences of {} tokens each, {} at a time\n",
            cluster.devices, plan.sequences, recipe.model.context,
            (plan.sequences + plan.micro_batches - 1) / plan.micro_batches);
  print_out("step              {}, {} if nothing is hidden\n", seconds_text(best.step_s),
            seconds_text(best.serial_step_s()));
  print_out("  passes          {}\n", seconds_text(best.passes_s));
  print_out("  Newton-Schulz   {}\n", seconds_text(best.optimizer_s));
  print_out("  gradients       {}, {} of it hidden\n", seconds_text(best.gradients_s),
            seconds_text(best.hidden_s));
  print_out("  weights         {}\n", seconds_text(best.weights_s));
  print_out("rate              {:.3g} tokens/s, MFU {:.1f} %, {:.2f} % of the same with Adam\n",
            static_cast<double>(recipe.train.batch_tokens) / best.step_s, 100 * best.mfu,
            100 * best.of_adam);
  print_out("all steps         {}\n",
            format_duration(best.step_s * static_cast<double>(recipe.train.steps)));
  if (plan.matrices > 0 && cluster.devices > plan.matrices) {
    print_out(
        "matrices          {} for {} devices: owned whole, {} devices own none, and the largest "
        "takes\n                  {:.2f} % of a step's passes, the least that Newton-Schulz can\n",
        plan.matrices, cluster.devices, cluster.devices - plan.matrices,
        100 * plan.largest_matrix_flops / plan.passes_flops);
  }
  print_memory(best.memory);
  print_layouts(plan);
}

Cluster cluster_of(const PlanCommand& options, const Recipe& recipe) {
  Cluster cluster{
      .devices = options.devices, .efficiency = options.efficiency, .overlap = options.overlap};
  if (!options.memory.empty()) {
    cluster.memory_bytes = parse_quantity(options.memory, "B", "--memory");
  }
  if (!options.bandwidth.empty()) {
    cluster.bytes_per_s = parse_quantity(options.bandwidth, "B/s", "--bandwidth");
  } else if (options.devices > 1) {
    fail(ErrorCode::usage, "--bandwidth is needed for {} devices, such as --bandwidth 100GB/s",
         options.devices);
  }
  cluster.flops_per_s = options.flops.empty() ? recipe.train.peak_tflops * 1e12
                                              : parse_quantity(options.flops, "FLOP/s", "--flops");
  if (cluster.flops_per_s == 0) {
    fail(ErrorCode::usage,
         "give the rate of a device's matrix products: --flops 275TFLOP/s, or train.peak_tflops in "
         "the recipe");
  }
  return cluster;
}

int run(const PlanCommand& options) {
  if (options.groups > 0 && options.split == 0) {
    fail(ErrorCode::usage, "--groups needs --split, the devices of a group");
  }
  Console console(options.common.quiet);
  const Recipe recipe = complete_recipe(load_recipe(options.recipe, options.assignments), console);
  const Layout layout{options.split, options.groups};
  const Plan plan =
      make_plan(recipe, cluster_of(options, recipe), options.split > 0 ? &layout : nullptr);
  const Json data = describe_data(recipe);
  const auto json = [&] {
    Json object = plan_json(plan);
    object["data"] = data;
    return object;
  };
  print_result(options.common, json, [&] {
    print_plan(plan, recipe);
    if (!data.empty()) print_out("\n{}", sources_text(data));
  });
  // A layout that does not fit is an answer to the question, and no success.
  const LayoutPlan& best = plan.layouts[plan.best];
  if (!best.fits) {
    fail(ErrorCode::memory,
         "no layout fits into {} a device; the smallest needs {}: use a smaller "
         "train.activation_memory_mb, train.recompute_blocks = true, or more devices",
         format_bytes(plan.cluster.memory_bytes), format_bytes(best.memory.total()));
  }
  return 0;
}

}  // namespace

void add_plan(CommandLine& line) {
  line.command<PlanCommand>("plan", "estimate a recipe's run on many devices", run);
}

}  // namespace osp
