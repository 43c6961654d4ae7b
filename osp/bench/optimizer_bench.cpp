#include "osp/bench/optimizer_bench.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "osp/base/temporary_folder.h"
#include "osp/base/timing.h"
#include "osp/bench/summary.h"
#include "osp/optim/optimizers.h"

namespace osp {
namespace {

// Names of the peer's script for what it does beside an optimizer. Others have no peer.
std::vector<std::string> peers_of(const std::string& optimizer) {
  if (optimizer == "muon") return {"torch-muon", "batched-muon"};
  if (optimizer == "adam") return {"fused-adamw"};
  return {};
}

// Adds the file of updates to a command, if there is one.
std::vector<std::string> with_updates(std::vector<std::string> words, const std::string& updates) {
  if (!updates.empty()) words.insert(words.end(), {"--updates", updates});
  return words;
}

Json run_our_step(const OptimizerBench& bench, const std::string& optimizer,
                  const std::string& updates) {
  return run_alone(bench.turn, "optim",
                   with_updates({"--model", bench.model, "--optimizers", optimizer}, updates));
}

// The peer's step on the banks of a group of ours.
Json run_peer_step(const OptimizerBench& bench, const std::string& peer, const Json& group,
                   const std::string& updates, const PeerSettings& settings) {
  std::vector<std::string> shapes;
  for (const auto& bank : group["banks"].get<std::vector<std::vector<int64_t>>>()) {
    shapes.push_back(fmt::format("{}", fmt::join(bank, "x")));
  }
  return run_peer(bench.turn,
                  with_updates({peer, fmt::format("{}", fmt::join(shapes, ","))},
                               group["kind"] == "muon" ? updates : ""),
                  settings.environment);
}

// The first run of a peer: with each of its settings, of which the fastest's counts and stays.
Json first_peer_step(const OptimizerBench& bench, const std::string& peer, const Json& group,
                     const std::string& updates, PeerSettings& settings) {
  Json trials = Json::array(), fastest;
  const auto steps_per_s = [&](const PeerSettings& one) {
    const Json run = run_peer_step(bench, peer, group, updates, one);
    if (fastest.is_null() || run["seconds"] < fastest["seconds"]) fastest = run;
    return 1.0 / run["seconds"].get<double>();
  };
  settings = fastest_settings(steps_per_s, "steps_per_s", trials);
  fastest["settings"] = settings.name;
  fastest["trials"] = trials;
  return fastest;
}

// All runs of one optimizer: ours and the peers of each of its groups, in turn.
Json bench_optimizer(const OptimizerBench& bench, const std::string& name, Console& console) {
  const TemporaryFolder folder;
  std::vector<GroupRuns> rows;
  std::vector<Json> runs;
  std::map<std::pair<size_t, std::string>, PeerSettings> chosen;
  for (int64_t i = 0; i < bench.turn.repetitions; ++i) {
    // Written once: apart from the random gradient every run computes the same update.
    const std::string updates = i == 0 ? folder / "updates.safetensors" : "";
    runs.push_back(run_our_step(bench, name, updates));
    const Json& groups = runs.back()["groups"];
    rows.resize(groups.size());
    for (size_t g = 0; g < groups.size(); ++g) {
      rows[g].ours.push_back(groups[g]);
      for (const std::string& peer : peers_of(groups[g]["kind"])) {
        PeerSettings& settings = chosen[{g, peer}];
        rows[g].peers[peer].push_back(
            i == 0 ? first_peer_step(bench, peer, groups[g], updates, settings)
                   : run_peer_step(bench, peer, groups[g], updates, settings));
      }
    }
    console.line("{} {}/{}", name, i + 1, bench.turn.repetitions);
  }
  return summarize_optimizer(name, rows, runs);
}

// Seconds of forward and backward per token, in the step of `osp bench train` with this optimizer.
double time_passes(const OptimizerBench& bench, const std::string& optimizer, Console& console) {
  std::vector<double> seconds;
  for (int64_t i = 0; i < bench.turn.repetitions; ++i) {
    const Json run = run_alone(bench.turn, "train",
                               {"--model", bench.model, "--set", "optim.name=" + optimizer});
    seconds.push_back((run["step_seconds"].get<double>() - run["optimizer_seconds"].get<double>()) /
                      run["batch_tokens"].get<double>());
    console.line("forward and backward ({}) {}/{}", optimizer, i + 1, bench.turn.repetitions);
  }
  return median(seconds);
}

// Forward and backward are timed once for all optimizers, and apart for those that watch them.
std::map<std::string, double> time_all_passes(const OptimizerBench& bench, Console& console) {
  const double common = time_passes(bench, "adam", console);
  std::map<std::string, double> seconds;
  for (const std::string& name : bench.optimizers) {
    const bool watches = recipe_optimizer(name).row->watches_passes;
    seconds[name] = watches ? time_passes(bench, name, console) : common;
  }
  return seconds;
}

double per_parameter(const Json& bytes, const Json& parameters) {
  return bytes.get<double>() / parameters.get<double>();
}

}  // namespace

Json optimizer_speed_json(const OptimizerSpeed& speed) {
  Json groups = Json::array();
  for (const GroupSpeed& group : speed.groups) {
    groups.push_back({{"group", group.name},
                      {"kind", group.optimizer->name},
                      {"banks", group.banks},
                      {"parameters", group.parameters},
                      {"bytes", group.bytes},
                      {"formula_bytes", group.formula_bytes},
                      {"seconds", group.seconds},
                      {"cpu_seconds", group.cpu_seconds}});
  }
  return {{"groups", groups},
          {"startup_seconds", speed.startup_seconds},
          {"peak_memory_bytes", speed.peak_memory_bytes}};
}

Json bench_optimizers(const OptimizerBench& bench, Console& console) {
  Json optimizers = Json::array();
  for (const std::string& name : bench.optimizers) {
    optimizers.push_back(bench_optimizer(bench, name, console));
  }
  Json curve = Json::array();
  const TimedModel model = timed_model(bench.model);
  if (bench.batch_tokens > 0 && !model.part) {
    add_throughput(optimizers, bench.batch_tokens, time_all_passes(bench, console));
    curve = overhead_curve(optimizers, model.config.width);
  }
  return {{"optimizers", optimizers}, {"overhead", curve}};
}

Json summarize_group(const GroupRuns& runs) {
  const Json& first = runs.ours[0];
  Json json = {
      {"group", first["group"]},
      {"kind", first["kind"]},
      {"banks", first["banks"]},
      {"parameters", first["parameters"]},
      {"seconds", median_of(runs.ours, "seconds")},
      {"cpu_seconds", median_of(runs.ours, "cpu_seconds")},
      {"bytes_per_parameter", per_parameter(first["bytes"], first["parameters"])},
      {"formula_bytes_per_parameter", per_parameter(first["formula_bytes"], first["parameters"])},
      {"peers", Json::array()}};
  for (const auto& [name, results] : runs.peers) {
    Json peer = {{"peer", name},
                 {"seconds", median_of(results, "seconds")},
                 {"cpu_seconds", median_of(results, "cpu_seconds")},
                 {"ratio", median_ratio(results, runs.ours, "seconds")},
                 {"cpu_ratio", median_ratio(results, runs.ours, "cpu_seconds")},
                 {"ratios", ratios_by_pair(results, runs.ours, "seconds")},
                 {"bytes_per_parameter", per_parameter(results[0]["bytes"], first["parameters"])},
                 {"startup_seconds", median_of(results, "startup_seconds")},
                 {"peak_memory_bytes", median_of(results, "peak_memory_bytes")}};
    for (const char* key : {"largest_difference", "error", "peer_error", "settings", "trials"}) {
      if (results[0].contains(key)) peer[key] = results[0][key];
    }
    json["peers"].push_back(peer);
  }
  return json;
}

Json summarize_optimizer(const std::string& name, const std::vector<GroupRuns>& groups,
                         const std::vector<Json>& runs) {
  Json result = {{"optimizer", name},
                 {"startup_seconds", median_of(runs, "startup_seconds")},
                 {"peak_memory_bytes", median_of(runs, "peak_memory_bytes")},
                 {"groups", Json::array()}};
  double seconds = 0, parameters = 0, bytes = 0, formula_bytes = 0;
  for (const GroupRuns& group : groups) {
    result["groups"].push_back(summarize_group(group));
    const Json& first = group.ours[0];
    seconds += result["groups"].back()["seconds"].get<double>();
    parameters += first["parameters"].get<double>();
    bytes += first["bytes"].get<double>();
    formula_bytes += first["formula_bytes"].get<double>();
  }
  result["step_seconds"] = seconds;
  result["bytes_per_parameter"] = bytes / parameters;
  result["formula_bytes_per_parameter"] = formula_bytes / parameters;
  return result;
}

void add_throughput(Json& optimizers, int64_t batch_tokens,
                    const std::map<std::string, double>& seconds_per_token) {
  const double tokens = static_cast<double>(batch_tokens);
  double adam = 0;
  for (Json& optimizer : optimizers) {
    const double passes = seconds_per_token.at(optimizer["optimizer"]);
    optimizer["seconds_per_token"] = passes;
    optimizer["tokens_per_s"] =
        tokens / (tokens * passes + optimizer["step_seconds"].get<double>());
    if (optimizer["optimizer"] == "adam") adam = optimizer["tokens_per_s"];
  }
  if (adam == 0) return;
  for (Json& optimizer : optimizers) {
    optimizer["relative_throughput"] = optimizer["tokens_per_s"].get<double>() / adam;
  }
}

Json overhead_curve(const Json& optimizers, int64_t width) {
  const auto find = [&](const char* name) {
    return std::ranges::find_if(optimizers, [&](const Json& o) { return o["optimizer"] == name; });
  };
  const auto osp = find("osp"), adam = find("adam");
  Json curve = Json::array();
  if (osp == optimizers.end() || adam == optimizers.end()) return curve;
  const double osp_step = (*osp)["step_seconds"], adam_step = (*adam)["step_seconds"];
  const double passes = (*adam)["seconds_per_token"];
  for (int64_t tokens = 8192; tokens <= (int64_t{1} << 21); tokens *= 4) {
    const double batch = static_cast<double>(tokens);
    curve.push_back({{"batch_tokens", tokens},
                     {"overhead", (osp_step - adam_step) / (batch * passes + adam_step)},
                     {"model", 5.0 * static_cast<double>(width) / batch}});
  }
  return curve;
}

std::string group_table(const Json& optimizers) {
  constexpr const char* kFormat =
      "{:<9} {:<9} {:>12} {:<13} {:>9} {:>6} {:>9} {:>6} {:>8} {:>8} {:>8} {:>11}\n";
  std::string table =
      fmt::format(fmt::runtime(kFormat), "optimizer", "group", "parameters", "by", "s a step",
                  "ratio", "CPU s", "ratio", "B/param", "formula", "start, s", "difference");
  for (const Json& optimizer : optimizers) {
    for (const Json& group : optimizer["groups"]) {
      const auto add_side = [&](const std::string& by, const Json& side, const Json& startup) {
        table += fmt::format(
            fmt::runtime(kFormat), optimizer["optimizer"].get<std::string>(),
            group["group"].get<std::string>(), format_count(group["parameters"].get<int64_t>()), by,
            number_text(side, "seconds", 4), number_text(side, "ratio", 2),
            number_text(side, "cpu_seconds", 4), number_text(side, "cpu_ratio", 2),
            number_text(side, "bytes_per_parameter", 2),
            number_text(group, "formula_bytes_per_parameter", 2),
            number_text(startup, "startup_seconds", 2), number_text(side, "largest_difference", 4));
      };
      add_side("osp", group, optimizer);
      for (const Json& peer : group["peers"]) {
        add_side(peer["peer"].get<std::string>(), peer, peer);
      }
    }
  }
  return table;
}

std::string throughput_table(const Json& optimizers, const Json& curve, int64_t batch_tokens) {
  constexpr const char* kFormat = "{:<9} {:>12} {:>14} {:>9} {:>8} {:>8} {:>9}\n";
  std::string table =
      fmt::format("with forward and backward, {} tokens a step\n", format_count(batch_tokens)) +
      fmt::format(fmt::runtime(kFormat), "optimizer", "s a step", "tokens/s", "of Adam", "B/param",
                  "formula", "start, s");
  for (const Json& optimizer : optimizers) {
    table += fmt::format(fmt::runtime(kFormat), optimizer["optimizer"].get<std::string>(),
                         number_text(optimizer, "step_seconds", 4),
                         number_text(optimizer, "tokens_per_s", 1),
                         number_text(optimizer, "relative_throughput", 4),
                         number_text(optimizer, "bytes_per_parameter", 2),
                         number_text(optimizer, "formula_bytes_per_parameter", 2),
                         number_text(optimizer, "startup_seconds", 2));
  }
  if (curve.empty()) return table;
  table +=
      fmt::format("\n{:>15} {:>24} {:>8}\n", "tokens a step", "osp longer than adam", "5 n / B");
  for (const Json& point : curve) {
    table += fmt::format("{:>15} {:>22.2f} % {:>6.2f} %\n",
                         format_count(point["batch_tokens"].get<int64_t>()),
                         100 * point["overhead"].get<double>(), 100 * point["model"].get<double>());
  }
  return table;
}

}  // namespace osp
