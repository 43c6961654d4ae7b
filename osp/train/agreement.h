// Agreement of a run's ranks before its first step: that they can train together, that they mean
// the same run, and that they see the folder which the first of them holds.
//
// Tested by tests/python/test_ranks.py.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "osp/optim/routing.h"
#include "osp/ranks/ranks.h"
#include "osp/train/config.h"
#include "osp/train/run_folder.h"

namespace osp {

// Error(usage) if there are more ranks than groups of a step's sequences, or an optimizer
// cannot be shared.
void check_ranks(int64_t ranks, const Recipe& resolved_recipe, const Routing& routing);

// Error(usage), on all ranks, that names what differs between them: the program, the recipe (with
// its fields), the data, the starting weights.
void check_agreement(const Ranks& ranks, const Recipe& resolved_recipe,
                     const std::string& data_fingerprint, const StartingWeights& start);

// The run folder as `open` gives it on the first rank; the others learn from it where to go on
// from. An Error of the first is that of all.
RunFolder open_folder_of_first(const Ranks& ranks, const std::string& path, StartingWeights& start,
                               const std::function<RunFolder()>& open);

// Error(usage), on all ranks, if they do not see one and the same run folder, which the first one
// holds; Error(io) if one cannot write there. Every rank writes a random number of its own into a
// file that the first has made, as they write checkpoints, and looks for those of all.
void check_folder_is_shared(const Ranks& ranks, const std::string& run);

// Error(usage) if a rank does not see the checkpoint that the first one has chosen.
void check_shared(const Ranks& ranks, const std::string& checkpoint);

}  // namespace osp
