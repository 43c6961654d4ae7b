// A batch as tensors [B, T]: B sequences of T tokens.
//
// Tested by osp/train/step_test.cpp and osp/train/validation_test.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "osp/data/batch.h"

namespace osp {

struct BatchTensors {
  at::Tensor tokens_BT;     // int64
  at::Tensor targets_BT;    // int64, kIgnoredTarget where nothing is scored
  at::Tensor documents_BT;  // int32; undefined where the batch numbers no documents
};

// Views of `batch`, which must outlive them and must not be written through them.
BatchTensors as_tensors(const Batch& batch, int64_t context);

// Sequences [first, first + count) on a device.
BatchTensors sequences_of(const BatchTensors& batch, int64_t first, int64_t count,
                          at::Device device);

// Targets of the batch that are scored.
int64_t num_scored(const Batch& batch);

}  // namespace osp
