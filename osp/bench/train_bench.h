// `osp bench train`: training steps of osp beside those of PyTorch in the fastest of the ways to
// run it that were tried: eager or through torch.compile, with several settings of memory and
// threads, and with the batch whole or in parts. Ratios are to that one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/bench/peer_settings.h"
#include "osp/bench/speed.h"
#include "osp/bench/turn.h"

namespace osp {

// A way to run the peer.
struct TrainingPeer {
  std::string mode = "eager";  // of kTrainingPeerModes
  int64_t micro_batches = 1;
  PeerSettings settings;

  // "compile; keep freed memory; 2 micro-batches"
  std::string text() const;
};
inline constexpr const char* kTrainingPeerModes[] = {"eager", "compile", "max-autotune"};

// The fastest way that was found, and what each trial gave.
struct TunedTrainingPeer {
  TrainingPeer peer;
  Json trials = Json::array();  // {"mode", "micro_batches", "settings", "tokens_per_s"}
};

// The model and the batch that both sides train.
struct TrainingBench {
  std::string model;
  int64_t context = 0;
  int64_t sequences = 0;  // of a step
};

// Tries, in order: all settings with the first mode, the other modes with the fastest settings,
// then the batch in 2 and 4 parts. `measure` returns tokens per second.
TunedTrainingPeer tune_training_peer(const std::vector<std::string>& modes, int64_t sequences,
                                     const std::function<double(const TrainingPeer&)>& measure);

// One run of each side; each object is what the process printed.
struct TrainingRuns {
  Json ours, peer;
};

// The object that `osp bench train --alone` prints.
Json training_speed_json(const TrainingSpeed& speed, int64_t context, bool with_profile);

// Time by operator, the most expensive first; operators below a thousandth of the step are summed
// up in the last line.
std::string profile_table(const TrainingSpeed& speed);

// Runs the peer and returns the object that it prints.
Json run_training_peer(const TurnOptions& turn, const TrainingBench& bench,
                       const TrainingPeer& peer);

// Runs osp and the peer on a model, one after the other.
TrainingRuns run_training_sides(const TurnOptions& turn, const TrainingBench& bench,
                                const TrainingPeer& peer);

// Medians over the repetitions; ratios are medians of the ratios of each repetition.
Json summarize_training(const TrainingBench& bench, const TunedTrainingPeer& tuned,
                        const std::vector<TrainingRuns>& repetitions);

// One line per model.
std::string training_table(const Json& models);

}  // namespace osp
