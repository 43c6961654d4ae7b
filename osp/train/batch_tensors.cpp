#include "osp/train/batch_tensors.h"

#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <vector>

namespace osp {
namespace {

template <class T>
at::Tensor view(const std::vector<T>& values, int64_t context, at::ScalarType type) {
  if (values.empty()) return {};
  void* data = const_cast<T*>(values.data());  // only read
  const auto count = static_cast<int64_t>(values.size()) / context;
  return at::from_blob(data, {count, context}, at::TensorOptions().dtype(type));
}

}  // namespace

BatchTensors as_tensors(const Batch& batch, int64_t context) {
  return {.tokens_BT = view(batch.tokens, context, at::kLong),
          .targets_BT = view(batch.targets, context, at::kLong),
          .documents_BT = view(batch.documents, context, at::kInt)};
}

BatchTensors sequences_of(const BatchTensors& batch, int64_t first, int64_t count,
                          at::Device device) {
  const auto part = [&](const at::Tensor& x_BT) {
    return x_BT.defined() ? x_BT.narrow(0, first, count).to(device) : x_BT;
  };
  return {.tokens_BT = part(batch.tokens_BT),
          .targets_BT = part(batch.targets_BT),
          .documents_BT = part(batch.documents_BT)};
}

int64_t num_scored(const Batch& batch) {
  return std::count_if(batch.targets.begin(), batch.targets.end(),
                       [](int64_t target) { return target >= 0; });
}

}  // namespace osp
