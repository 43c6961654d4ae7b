#include <ATen/ops/zeros.h>

#include "osp/model/transformer.h"

namespace osp {

KvCache make_kv_cache(const ParameterStore& store, int64_t batch, int64_t capacity) {
  const ModelConfig& config = store.config;
  KvCache cache;
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    for (auto* part : {&cache.keys, &cache.values}) {
      part->push_back(at::zeros({batch, config.kv_heads, capacity, config.head_size},
                                store.banks[0].compute.options()));
    }
  }
  return cache;
}

}  // namespace osp
