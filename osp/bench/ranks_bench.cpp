#include "osp/bench/ranks_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "osp/base/console.h"
#include "osp/base/error.h"
#include "osp/bench/child.h"
#include "osp/bench/summary.h"

namespace osp {
namespace {

constexpr const char* kAmounts[] = {"step_seconds", "steps_per_s", "cpu_seconds", "sent_bytes",
                                    "peak_memory_bytes"};

// Starts `command` as every rank and returns what they print.
Json launch(const RanksBench& bench, const std::string& rate,
            const std::vector<std::string>& command, const Environment& environment) {
  std::vector<std::string> words = {bench.python, bench.launcher,
                                    "--ranks",    std::to_string(bench.ranks),
                                    "--threads",  std::to_string(bench.threads)};
  if (!rate.empty()) words.insert(words.end(), {"--rate", rate});
  words.emplace_back("--");
  words.insert(words.end(), command.begin(), command.end());
  return run_child(words, environment);
}

Json run_ranks(const RanksBench& bench, const std::string& rate,
               const std::vector<std::string>& command, const Environment& environment) {
  return joined_ranks(launch(bench, rate, command, environment));
}

// True if every run knows `key`.
bool all_have(const std::vector<Json>& runs, const char* key) {
  return std::ranges::none_of(runs, [&](const Json& run) { return run.at(key).is_null(); });
}

Json medians(const std::vector<Json>& runs) {
  Json result;
  for (const char* key : kAmounts) {
    result[key] = all_have(runs, key) ? Json(median_of(runs, key)) : Json();
  }
  return result;
}

// How osp stands beside a peer: more steps are better, less of all else.
Json ratios(const std::vector<Json>& ours, const std::vector<Json>& peers) {
  Json result;
  result["steps"] = median_ratio(ours, peers, "steps_per_s");
  result["steps_by_pair"] = ratios_by_pair(ours, peers, "steps_per_s");
  for (const char* key : {"cpu_seconds", "sent_bytes", "peak_memory_bytes"}) {
    const bool known = all_have(ours, key) && all_have(peers, key);
    result[key] = known ? Json(median_ratio(ours, peers, key)) : Json();
  }
  return result;
}

std::string bytes_text(const Json& bytes) {
  return bytes.is_null() ? "" : format_bytes(bytes.get<double>());
}

std::string table_row(const std::string& network, const std::string& name, const Json& side) {
  const Json beside = side.value("ratios", Json::object());
  return fmt::format("{:<10} {:<22} {:>8.3f} {:>12.3f} {:>13} {:>13} {:>8} {:>6} {:>6} {:>6}\n",
                     network, name, side["steps_per_s"].get<double>(),
                     side["cpu_seconds"].get<double>(), bytes_text(side["sent_bytes"]),
                     bytes_text(side["peak_memory_bytes"]), number_text(beside, "steps", 2),
                     number_text(beside, "cpu_seconds", 2), number_text(beside, "sent_bytes", 2),
                     number_text(beside, "peak_memory_bytes", 2));
}

}  // namespace

Json joined_ranks(const Json& printed) {
  const Json& ranks = printed.at("ranks");
  OSP_CHECK(!ranks.empty(), "no rank");
  double seconds = 0, cpu_seconds = 0, sent = 0, memory = 0;
  bool sent_known = true;
  for (const Json& rank : ranks) {
    seconds = std::max(seconds, rank.at("step_seconds").get<double>());
    cpu_seconds += rank.at("cpu_seconds").get<double>();
    memory = std::max(memory, rank.at("peak_memory_bytes").get<double>());
    sent_known = sent_known && !rank.at("sent_bytes").is_null();
    if (sent_known) sent += rank["sent_bytes"].get<double>();
  }
  Json result = {{"step_seconds", seconds},     {"steps_per_s", 1 / seconds},
                 {"cpu_seconds", cpu_seconds},  {"sent_bytes", sent_known ? Json(sent) : Json()},
                 {"peak_memory_bytes", memory}, {"loss", ranks[0].at("loss")}};
  if (ranks[0].contains("versions")) result["versions"] = ranks[0]["versions"];
  return result;
}

void try_network(const RanksBench& bench, const std::string& rate) {
  launch(bench, rate, {"echo", "{}"}, {});
}

Json run_ranks_osp(const RanksBench& bench, const std::string& rate, const std::string& way) {
  // In the repository the package lies beside the scripts; elsewhere it is installed.
  Environment environment;
  if (std::filesystem::exists("python/osp/__main__.py")) environment = {"PYTHONPATH=python"};
  return run_ranks(bench, rate,
                   {bench.python, "-m", "osp", "bench", "ranks", "--alone", "--osp-way", way,
                    "--model", bench.model, "--batch-tokens", std::to_string(bench.batch_tokens),
                    "--steps", std::to_string(bench.steps), "--json"},
                   environment);
}

Json run_ranks_peer(const RanksBench& bench, const std::string& rate, const RanksPeer& peer) {
  return run_ranks(bench, rate,
                   {bench.python, bench.peer, "--way", peer.way, "--mode", peer.mode, "--model",
                    bench.model, "--batch-tokens", std::to_string(bench.batch_tokens), "--steps",
                    std::to_string(bench.steps)},
                   peer.settings.environment);
}

RanksPeer tune_ranks_peer(const std::function<double(const RanksPeer&)>& measure, Json& trials) {
  RanksPeer best;
  double most = 0;
  const auto attempt = [&](const RanksPeer& peer) {
    const double rate = measure(peer);
    trials.push_back({{"way", peer.way},
                      {"mode", peer.mode},
                      {"settings", peer.settings.name},
                      {"steps_per_s", rate}});
    if (rate <= most) return;
    most = rate;
    best = peer;
  };
  for (const PeerSettings& settings : all_peer_settings()) attempt({.settings = settings});
  attempt({.mode = "compile", .settings = best.settings});
  return best;
}

Json summarize_ranks(const std::string& rate, const std::vector<RanksRuns>& ours,
                     const std::vector<RanksRuns>& peers) {
  Json result;
  result["rate"] = rate.empty() ? Json() : Json(rate);
  const RanksRuns* fastest = nullptr;
  double most = 0;
  for (const RanksRuns& peer : peers) {
    Json side = medians(peer.runs);
    side["name"] = peer.name;
    result["peers"].push_back(side);
    if (side["steps_per_s"].get<double>() <= most) continue;
    most = side["steps_per_s"].get<double>();
    fastest = &peer;
  }
  OSP_CHECK(fastest != nullptr, "no peer");
  result["fastest_peer"] = fastest->name;
  for (const RanksRuns& own : ours) {
    Json side = medians(own.runs);
    side["name"] = own.name;
    side["ratios"] = ratios(own.runs, fastest->runs);
    result["osp"].push_back(side);
  }
  return result;
}

std::string ranks_table(const Json& networks) {
  std::string table = fmt::format(
      "{:<10} {:<22} {:>8} {:>12} {:>13} {:>13}   beside the fastest peer: steps, CPU, "
      "bytes, memory\n",
      "network", "", "steps/s", "CPU s a step", "bytes a step", "peak memory");
  for (const Json& network : networks) {
    std::string rate = network["rate"].is_null() ? "unlimited" : network["rate"].get<std::string>();
    for (const char* sides : {"osp", "peers"}) {
      for (const Json& side : network[sides]) {
        std::string name = side["name"].get<std::string>();
        if (name == network["fastest_peer"]) name += " (fastest)";
        table += table_row(std::exchange(rate, ""), name, side);
      }
    }
  }
  return table;
}

}  // namespace osp
