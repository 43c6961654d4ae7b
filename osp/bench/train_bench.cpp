#include "osp/bench/train_bench.h"

#include <fmt/format.h>

#include "osp/base/console.h"
#include "osp/base/timing.h"
#include "osp/bench/summary.h"

namespace osp {

namespace {

Json trial_json(const TrainingPeer& peer) {
  return {
      {"mode", peer.mode}, {"micro_batches", peer.micro_batches}, {"settings", peer.settings.name}};
}

}  // namespace

std::string TrainingPeer::text() const {
  const std::string parts =
      micro_batches == 1 ? "" : fmt::format("; {} micro-batches", micro_batches);
  return fmt::format("{}; {}{}", mode, settings.name, parts);
}

TunedTrainingPeer tune_training_peer(const std::vector<std::string>& modes, int64_t sequences,
                                     const std::function<double(const TrainingPeer&)>& measure) {
  TunedTrainingPeer tuned;
  double most = 0;
  const auto attempt = [&](const TrainingPeer& peer) {
    const double rate = measure(peer);
    Json trial = trial_json(peer);
    trial["tokens_per_s"] = rate;
    tuned.trials.push_back(trial);
    if (rate <= most) return;
    most = rate;
    tuned.peer = peer;
  };
  for (const PeerSettings& settings : all_peer_settings()) {
    attempt({.mode = modes.front(), .settings = settings});
  }
  const PeerSettings settings = tuned.peer.settings;
  for (size_t i = 1; i < modes.size(); ++i) attempt({.mode = modes[i], .settings = settings});
  const std::string mode = tuned.peer.mode;
  for (const int64_t parts : {2, 4}) {
    if (sequences % parts != 0) continue;
    attempt({.mode = mode, .micro_batches = parts, .settings = settings});
  }
  return tuned;
}

Json training_speed_json(const TrainingSpeed& speed, int64_t context, bool with_profile) {
  Json result;
  result["tokens_per_s"] = speed.tokens_per_s;
  result["peak_memory_bytes"] = speed.peak_memory_bytes;
  result["loss"] = speed.loss;
  result["parameters"] = speed.parameters;
  result["context"] = context;
  result["batch_tokens"] = speed.batch_tokens;
  result["step_seconds"] = speed.step_seconds;
  result["cpu_seconds"] = speed.cpu_seconds;
  result["data_seconds"] = speed.data_seconds;
  result["optimizer_seconds"] = speed.optimizer_seconds;
  result["page_faults"] = speed.page_faults;
  result["model_flops_per_s"] = speed.model_flops_per_s;
  result["product_flops_per_s"] = speed.product_flops_per_s;
  if (!with_profile) return result;
  result["operators"] = Json::array();
  for (const OpTime& time : speed.operators) {
    result["operators"].push_back(
        {{"name", time.name}, {"calls", time.calls}, {"seconds", time.seconds}});
  }
  return result;
}

std::string profile_table(const TrainingSpeed& speed) {
  std::string table =
      fmt::format("{:<44} {:>7} {:>10} {:>7}\n", "operator", "calls", "ms a step", "share");
  double listed = 0;
  const auto add_row = [&](const std::string& name, const std::string& calls, double seconds) {
    table += fmt::format("{:<44} {:>7} {:>10.2f} {:>5.1f} %\n", name, calls, 1e3 * seconds,
                         100 * seconds / speed.step_seconds);
  };
  for (const OpTime& time : speed.operators) {
    if (time.seconds < 1e-3 * speed.step_seconds) break;
    add_row(time.name, std::to_string(time.calls), time.seconds);
    listed += time.seconds;
  }
  add_row("everything else", "", speed.step_seconds - listed);
  return table;
}

Json run_training_peer(const TurnOptions& turn, const TrainingBench& bench,
                       const TrainingPeer& peer) {
  return run_peer(turn,
                  {"--model", bench.model, "--context", std::to_string(bench.context), "--mode",
                   peer.mode, "--micro-batches", std::to_string(peer.micro_batches)},
                  peer.settings.environment);
}

TrainingRuns run_training_sides(const TurnOptions& turn, const TrainingBench& bench,
                                const TrainingPeer& peer) {
  TrainingRuns runs;
  runs.ours = run_alone(turn, "train",
                        {"--model", bench.model, "--context", std::to_string(bench.context)});
  runs.peer = run_training_peer(turn, bench, peer);
  return runs;
}

Json summarize_training(const TrainingBench& bench, const TunedTrainingPeer& tuned,
                        const std::vector<TrainingRuns>& repetitions) {
  std::vector<Json> ours, peers;
  std::vector<double> shares_of_products;
  for (const TrainingRuns& runs : repetitions) {
    ours.push_back(runs.ours);
    peers.push_back(runs.peer);
    shares_of_products.push_back(runs.ours["model_flops_per_s"].get<double>() /
                                 runs.ours["product_flops_per_s"].get<double>());
  }
  Json result;
  result["model"] = bench.model;
  result["parameters"] = ours[0]["parameters"];
  result["context"] = ours[0]["context"];
  result["tokens_per_s"] = median_of(ours, "tokens_per_s");
  result["peer_tokens_per_s"] = median_of(peers, "tokens_per_s");
  result["ratio"] = median_ratio(ours, peers, "tokens_per_s");
  result["ratios"] = ratios_by_pair(ours, peers, "tokens_per_s");
  for (const char* key : {"cpu_seconds", "page_faults", "peak_memory_bytes"}) {
    result[key] = median_of(ours, key);
    result[std::string("peer_") + key] = median_of(peers, key);
  }
  result["cpu_ratio"] = median_ratio(peers, ours, "cpu_seconds");
  result["peak_memory_ratio"] = median_ratio(ours, peers, "peak_memory_bytes");
  result["share_of_product_rate"] = median(shares_of_products);
  result["peer"] = trial_json(tuned.peer);
  result["peer"]["versions"] = peers[0]["versions"];
  result["peer_trials"] = tuned.trials;
  return result;
}

std::string training_table(const Json& models) {
  std::string table =
      fmt::format("{:<6} {:>8} {:>12} {:>13} {:>14} {:>6} {:>10} {:>10} {:>10} {:>6} {:>11}\n",
                  "model", "context", "parameters", "osp tokens/s", "peer tokens/s", "ratio",
                  "CPU ratio", "osp peak", "peer peak", "ratio", "of products");
  for (const Json& m : models) {
    table += fmt::format(
        "{:<6} {:>8} {:>12} {:>13.0f} {:>14.0f} {:>6.2f} {:>10.2f} {:>10} {:>10} {:>6.2f} {:>9.0f} "
        "%\n",
        m["model"].get<std::string>(), m["context"].get<int64_t>(),
        format_count(m["parameters"].get<int64_t>()), m["tokens_per_s"].get<double>(),
        m["peer_tokens_per_s"].get<double>(), m["ratio"].get<double>(),
        m["cpu_ratio"].get<double>(), format_bytes(m["peak_memory_bytes"].get<double>()),
        format_bytes(m["peer_peak_memory_bytes"].get<double>()),
        m["peak_memory_ratio"].get<double>(), 100 * m["share_of_product_rate"].get<double>());
  }
  for (const Json& m : models) {
    const Json& peer = m["peer"];
    table += fmt::format("peer of {}: PyTorch, {}; {}; {} micro-batches\n",
                         m["model"].get<std::string>(), peer["mode"].get<std::string>(),
                         peer["settings"].get<std::string>(), peer["micro_batches"].get<int64_t>());
  }
  return table;
}

}  // namespace osp
