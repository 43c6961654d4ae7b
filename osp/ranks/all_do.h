// Work that every rank does a part of, and that has failed for all if it has for one.
//
// Tested by tests/python/test_ranks_saving.py.
#pragma once

#include <functional>
#include <vector>

#include "osp/base/json.h"
#include "osp/ranks/ranks.h"

namespace osp {

// Does this rank's part, which must not exchange anything itself, and waits for all others. What
// each of them returned, in the order of ranks, on every rank; Error(io) on every rank, with the
// number and the words of the first that failed, if one has. All ranks must call it; LostRank.
std::vector<Json> all_do(const Ranks& ranks, const std::function<Json()>& part);

}  // namespace osp
