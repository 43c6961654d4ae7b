// A checkpoint that all ranks write together, in the layout of one process:
//
//   1. the first rank creates the folder, the small files and the heads of the files of tensors
//   2. every rank writes the ranges that it owns, and fsyncs the files
//   3. the files are read back and hashed, each by one rank
//   4. the first rank writes manifest.json and renames the folder (commit_checkpoint())
//
// After each of 1 to 3 all ranks meet and hear of a failure, so that the folder gets its final name
// only if every byte of every rank is on the disk. A rank that dies ends the save of all.
//
// Tested by tests/python/test_ranks_saving.py.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/ranks/ranks.h"
#include "osp/train/snapshot.h"

namespace osp {

// Saves RUN/step-N; all ranks must call it with their parts of one snapshot, in a group that no
// other thread uses. `manifest` and `tokenizer_json` are those of the first rank. Returns on the
// first rank when the checkpoint is committed, on the others when their work is done. Error(io) on
// all of them that names the rank which failed first and why (of a failure in step 4 the first rank
// alone knows); LostRank. Neither leaves RUN/step-N.
void save_together(const Ranks& ranks, const std::string& run, const Json& manifest,
                   const Snapshot& snapshot, const std::string& tokenizer_json);

}  // namespace osp
