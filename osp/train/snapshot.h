// The content of a checkpoint at one moment: what of it a rank has to write, and where.
//
//   config.json, model.safetensors, tokenizer.json   master weights in fp32: a model dir, unfused
//   optimizer.safetensors                            every optimizer's state under its own names
//   trainer.json                                     step, tokens, guard, length of the log
//   recipe.json                                      the resolved recipe
//
// The files are those of one process, whatever the number of ranks: each rank has the ranges of the
// two files of tensors that it owns, and no two have the same byte. The others are the first one's.
//
// Tested by osp/train/loop_test.cpp and tests/python/test_ranks_saving.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/train/state.h"

namespace osp {

inline constexpr const char* kOptimizerFile = "optimizer.safetensors";
inline constexpr const char* kTrainerFile = "trainer.json";
inline constexpr const char* kRecipeFile = "recipe.json";

// The name in safetensors of a type of optimizer state.
const char* dtype_name(at::ScalarType type);

// A contiguous tensor on the CPU, and where in a file its bytes belong.
struct FileRange {
  uint64_t offset = 0;
  at::Tensor data;
};

struct TensorFile {
  std::string name;
  std::string head;  // the bytes in front of the data
  uint64_t bytes = 0;
  std::vector<FileRange> ranges;  // those of this rank
};

struct Snapshot {
  int64_t step = 0;
  bool healthy = true;  // the last step was not skipped
  ModelConfig model;
  std::vector<TensorFile> files;
  Json trainer;
  Json recipe;
};

// A rank's part of the checkpoint; all ranks must call it. As tensors that nothing changes any more
// (copy = true) or as views of the state (copy = false, for a save that ends before
// training continues).
Snapshot take_snapshot(const TrainState& state, uint64_t metrics_bytes, bool copy);

// What the first rank writes into an existing folder before any rank writes its ranges: all other
// files of a checkpoint but its manifest, each fsynced, and the heads of the files of tensors.
// tokenizer_json: "" for none. Error(io).
void write_frame(const Snapshot& snapshot, const std::string& folder,
                 const std::string& tokenizer_json);

// Writes this rank's ranges and fsyncs the files. Error(io).
void write_ranges(const Snapshot& snapshot, const std::string& folder);

}  // namespace osp
