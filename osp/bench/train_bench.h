// Results of `osp bench train`: training steps of osp beside those of PyTorch, as it is and, if
// wanted, through torch.compile. Ratios are to the faster of the two.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/bench/speed.h"
#include "osp/bench/turn.h"

namespace osp {

// One run of each side; each object is what the process printed.
struct TrainingRuns {
  Json ours, eager;
  Json compiled = nullptr;  // null unless wanted

  const Json& faster_peer() const;
};

// What `osp bench train --alone` prints.
Json training_speed_json(const TrainingSpeed& speed, int64_t context, bool with_profile);

// Time by operator, the most expensive first; operators below a thousandth of the step are summed
// up in the last line.
std::string profile_table(const TrainingSpeed& speed);

// Runs osp and the peer on a model, one after the other.
TrainingRuns run_training_sides(const TurnOptions& turn, const std::string& model, int64_t context,
                                bool compile);

// Medians over the repetitions; ratios are medians of the ratios of each repetition.
Json summarize_training(const std::string& model, const std::vector<TrainingRuns>& repetitions);

// One line per model.
std::string training_table(const Json& models);

}  // namespace osp
