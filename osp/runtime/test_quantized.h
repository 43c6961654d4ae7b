// Random quantized models for the tests of this folder.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>

#include <memory>
#include <vector>

#include "osp/runtime/engine.h"

namespace osp {

// The settings of a test's model, whose weights are random.
struct TestModel {
  ModelConfig config;
  BitWidths bits{4, 4, 4};
  int64_t weight_group = 0;
  bool asymmetric = false;
  OnlineTransforms online;
  ActivationGrids grids;

  TestModel() {
    config.layers = 3;
    config.width = 64;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_size = 32;
    config.inner = 96;
    config.vocabulary = 75;
    config.context = 512;
    config.embedding_projection = false;
  }

  // f(parts) with the model's parts.
  template <class Function>
  auto with_parts(const Function& f) const {
    const ModelConfig full = resolved_config(config);
    const QuantizedParts parts{full,
                               bits,
                               weight_group,
                               online,
                               grids,
                               [&](Part part, QuantizedWeights& weights) {
                                 return read(full, part, weights); }};
    return f(parts);
  }

  std::unique_ptr<const RuntimeModel> make() const { return with_parts(make_runtime_model); }

  std::unique_ptr<Engine> engine(const EngineOptions& options = {}) const {
    return std::make_unique<Engine>(make(), options);
  }

 private:
  ParameterStore read(const ModelConfig& full, Part part, QuantizedWeights& weights) const {
    ParameterStore store = make_parameters(full, {.part = part});
    at::Generator random =
        at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(part.value_or(-7) + 100));
    for (size_t i = 0; i < store.specs.size(); ++i) {
      const ParameterSpec& spec = store.specs[i];
      const at::Tensor master = store.master(static_cast<int64_t>(i));
      const at::Tensor noise = at::randn(master.sizes(), random);
      master.copy_(spec.kind == ParameterKind::gain ? noise.mul(0.2).add(1.0) : noise);
      if (spec.kind != ParameterKind::matrix) continue;
      const int64_t rows = spec.shape[0], columns = spec.shape[1];
      const int64_t groups = weight_group > 0 ? columns / weight_group : 1;
      QuantizedLinear& q = weights[spec.name];
      q.bits = bits.weights.bits;
      const int64_t top = q.bits <= 4 ? 8 : int64_t{1} << (q.bits - 1);
      q.codes = at::randint(-top, top, {rows, columns}, random).to(at::kChar);
      q.scale = at::rand({rows, groups}, random).add(0.2).mul(1.6 / top / std::sqrt(columns));
      if (asymmetric) q.zero = at::randint(-top, top, {rows, groups}, random).to(at::kChar);
      q.group = weight_group;
    }
    return store;
  }
};

inline std::vector<int32_t> test_tokens(int64_t count, int64_t vocabulary = 75) {
  std::vector<int32_t> tokens;
  uint64_t state = 12345;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    tokens.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocabulary)));
  }
  return tokens;
}

}  // namespace osp
