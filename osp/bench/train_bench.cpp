#include "osp/bench/train_bench.h"

#include <fmt/format.h>

#include "osp/base/console.h"
#include "osp/base/timing.h"
#include "osp/bench/summary.h"

namespace osp {

const Json& TrainingRuns::faster_peer() const {
  const bool eager_wins = compiled.is_null() || eager["tokens_per_s"].get<double>() >=
                                                    compiled["tokens_per_s"].get<double>();
  return eager_wins ? eager : compiled;
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

TrainingRuns run_training_sides(const TurnOptions& turn, const std::string& model, int64_t context,
                                bool compile) {
  const std::vector<std::string> words = {"--model", model, "--context", std::to_string(context)};
  TrainingRuns runs;
  runs.ours = run_alone(turn, "train", words);
  runs.eager = run_peer(turn, words);
  if (compile) {
    std::vector<std::string> compiled = {"--compile"};
    compiled.insert(compiled.end(), words.begin(), words.end());
    runs.compiled = run_peer(turn, compiled);
  }
  return runs;
}

Json summarize_training(const std::string& model, const std::vector<TrainingRuns>& repetitions) {
  // Sort the runs by side; the peer of a repetition is its faster one.
  std::vector<Json> ours, peers, eager, compiled;
  std::vector<double> shares_of_products;
  for (const TrainingRuns& runs : repetitions) {
    ours.push_back(runs.ours);
    peers.push_back(runs.faster_peer());
    eager.push_back(runs.eager);
    compiled.push_back(runs.compiled);
    shares_of_products.push_back(runs.ours["model_flops_per_s"].get<double>() /
                                 runs.ours["product_flops_per_s"].get<double>());
  }
  Json result;
  result["model"] = model;
  result["parameters"] = ours[0]["parameters"];
  result["context"] = ours[0]["context"];
  result["tokens_per_s"] = median_of(ours, "tokens_per_s");
  result["peer_tokens_per_s"] = median_of(peers, "tokens_per_s");
  result["ratio"] = median_ratio(ours, peers, "tokens_per_s");
  result["peak_memory_bytes"] = median_of(ours, "peak_memory_bytes");
  result["peer_peak_memory_bytes"] = median_of(peers, "peak_memory_bytes");
  result["peak_memory_ratio"] = median_ratio(ours, peers, "peak_memory_bytes");
  result["share_of_product_rate"] = median(shares_of_products);
  if (!compiled[0].is_null()) {
    result["eager_tokens_per_s"] = median_of(eager, "tokens_per_s");
    result["compiled_tokens_per_s"] = median_of(compiled, "tokens_per_s");
  }
  return result;
}

std::string training_table(const Json& models) {
  std::string table =
      fmt::format("{:<6} {:>8} {:>12} {:>13} {:>14} {:>6} {:>10} {:>10} {:>6} {:>11}\n", "model",
                  "context", "parameters", "osp tokens/s", "peer tokens/s", "ratio", "osp peak",
                  "peer peak", "ratio", "of products");
  for (const Json& m : models) {
    table += fmt::format(
        "{:<6} {:>8} {:>12} {:>13.0f} {:>14.0f} {:>6.2f} {:>10} {:>10} {:>6.2f} {:>9.0f} %\n",
        m["model"].get<std::string>(), m["context"].get<int64_t>(),
        format_count(m["parameters"].get<int64_t>()), m["tokens_per_s"].get<double>(),
        m["peer_tokens_per_s"].get<double>(), m["ratio"].get<double>(),
        format_bytes(m["peak_memory_bytes"].get<double>()),
        format_bytes(m["peer_peak_memory_bytes"].get<double>()),
        m["peak_memory_ratio"].get<double>(), 100 * m["share_of_product_rate"].get<double>());
  }
  return table;
}

}  // namespace osp
