// `osp bench ranks`: steps of several ranks beside PyTorch's ways to train with several, each rank
// in a network of its own (bench/ranks_launch.py) whose rate may be limited. The peers are those of
// bench/peers/train_ranks.py.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/bench/peer_settings.h"

namespace osp {

// The model that both sides train, and how the runs are started.
struct RanksBench {
  std::string model = "demo";   // of speed_recipe()
  int64_t batch_tokens = 2048;  // of a step, all ranks together
  int64_t ranks = 2;
  int64_t threads = 1;  // of each rank
  int64_t steps = 5;
  std::string python, launcher, peer;
};

// The peers: how PyTorch's ranks share the work.
inline constexpr const char* kRanksPeerWays[] = {"ddp-bf16", "ddp", "fsdp2", "muon-fsdp2"};

struct RanksPeer {
  std::string way = kRanksPeerWays[0];
  std::string mode = "eager";  // or "compile"
  PeerSettings settings;
};

// Ways of osp: exact, the same bits on any number of ranks with gradients in fp32 on the wire;
// bf16, gradients rounded for the wire (train.reduce_precision).
inline constexpr const char* kRanksOspWays[] = {"exact", "bf16"};

// One run of all ranks: step_seconds, the median step of the slowest rank; steps_per_s; cpu_seconds
// and sent_bytes of all ranks in a step (sent_bytes null where the network is everyone's);
// peak_memory_bytes of the largest rank; loss of the first. `rate` is tc's, "" for none.
Json run_ranks_osp(const RanksBench& bench, const std::string& rate, const std::string& way);
Json run_ranks_peer(const RanksBench& bench, const std::string& rate, const RanksPeer& peer);

// Makes the ranks' networks once, as the runs do. Error(unsupported) if that fails; the
// launcher has said why.
void try_network(const RanksBench& bench, const std::string& rate);

// The object of run_ranks_osp() and run_ranks_peer() from what the ranks printed, {"ranks": [one
// object per rank]}.
Json joined_ranks(const Json& printed);

// The fastest settings and mode of DistributedDataParallel on an unlimited network; `measure`
// returns steps a second. Other ways run with the same settings, in eager mode.
RanksPeer tune_ranks_peer(const std::function<double(const RanksPeer&)>& measure, Json& trials);

// The runs of one way on one network.
struct RanksRuns {
  std::string name;
  std::vector<Json> runs;
};

// Medians of the runs of one network: {"rate", "fastest_peer", "osp": [one per way], "peers":
// [the same]}. The ways of osp have "ratios" to the peer with most steps a second: medians over
// the repetitions.
Json summarize_ranks(const std::string& rate, const std::vector<RanksRuns>& ours,
                     const std::vector<RanksRuns>& peers);

std::string ranks_table(const Json& networks);

}  // namespace osp
