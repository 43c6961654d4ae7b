// The token embedding: rows of a table. It has no twin: the rows are selected by the tensor
// library, only the scatter of the gradient is our own.
#pragma once

#include <ATen/core/Tensor.h>

#include "osp/ops/weight_ref.h"

namespace osp {

// Rows of the table [V, D] for ids [...]; the gradient is scattered into table.gradient in the
// order of the ids, whatever the number of threads. `anchor` is any tensor that requires grad, so
// that a graph exists (ids have none); undefined outside training.
at::Tensor embedding(const at::Tensor& ids, const WeightRef& table, const at::Tensor& anchor);

}  // namespace osp
