#include "osp/ops/embedding.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding_dense_backward.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "osp/ops/dispatch.h"

namespace osp {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// table[ids] with the shape of ids and one more dimension.
at::Tensor rows_of_ids(const at::Tensor& ids, const at::Tensor& table) {
  auto shape = ids.sizes().vec();
  shape.push_back(table.size(1));
  return table.index_select(0, ids.reshape({-1})).view(shape);
}

struct Embedding : torch::autograd::Function<Embedding> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& /*anchor*/,
                            const at::Tensor& ids, const WeightRef& table) {
    ctx->save_for_backward({ids});
    ctx->saved_data["gradient"] = table.gradient;
    return rows_of_ids(ids, table.value);
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const at::Tensor ids = ctx->get_saved_variables()[0].contiguous();
    const at::Tensor gradient = ctx->saved_data["gradient"].toTensor(), dx = d[0].contiguous();
    if (!gradient.defined()) return {{}, {}, {}};
    if (!has_kernels(dx)) {
      gradient.add_(at::embedding_dense_backward(dx.to(gradient.scalar_type()), ids,
                                                 gradient.size(0), -1, false));
      return {{}, {}, {}};
    }
    const int64_t D = gradient.size(1), N = ids.numel();
    const int64_t* id = ids.const_data_ptr<int64_t>();
    float* sum = gradient.mutable_data_ptr<float>();
    constexpr int64_t kColumns = 64;  // each thread owns columns, so the order of the sums is fixed
    dispatch(dx, [&]<class T>(const kernels::TypedKernels<T>& k) {
      at::parallel_for(0, (D + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end) {
        const int64_t first = begin * kColumns, count = std::min(end * kColumns, D) - first;
        for (int64_t n = 0; n < N; ++n) {
          k.accumulate(sum + id[n] * D + first, data<T>(dx) + n * D + first, count);
        }
      });
    });
    return {{}, {}, {}};
  }
};

}  // namespace

at::Tensor embedding(const at::Tensor& ids, const WeightRef& table, const at::Tensor& anchor) {
  if (!anchor.defined()) return rows_of_ids(ids, table.value);
  return Embedding::apply(anchor, ids, table);
}

}  // namespace osp
