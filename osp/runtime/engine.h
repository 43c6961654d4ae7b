// The integer engine: a quantized Llama on 4-bit codes, from tokens to final states and logits.
//
// The bits of every result depend on the model and the tokens of a sequence alone: not on the
// instruction set, the number of threads, how a text is cut into passes, or which sequences are in
// a pass beside it. docs/numerics.md ("Integer engine") has the arithmetic.
//
// Tested by engine_test.cpp and tests/python/test_engine.py.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "osp/model/tap.h"
#include "osp/ops/isa.h"
#include "osp/runtime/active_products.h"
#include "osp/runtime/code_buffer.h"
#include "osp/runtime/head.h"
#include "osp/runtime/kv_pages.h"
#include "osp/runtime/runtime_model.h"
#include "osp/runtime/worker_pool.h"

namespace osp {

struct EngineOptions {
  int64_t threads = 1;
  int64_t head_bits = 8;  // 16, 8 or 4
  // Others than those of the active instruction set, for tests.
  const kernels::EngineKernels* kernels = nullptr;
  const kernels::CodeProducts* products = nullptr;
};

class Engine {
 public:
  Engine(std::unique_ptr<const RuntimeModel> model, const EngineOptions& options);
  ~Engine();

  const ModelConfig& config() const { return model_->config; }
  int64_t threads() const { return pool_.threads(); }
  // Names of the integer and of the floating-point kernels: "avx512-vnni, avx512"; "amx-int8"
  // is AMX in passes of at least 16 tokens, AVX-512 VNNI in others.
  std::string kernel_names() const;
  KvShape kv_shape() const;
  KvSequence new_sequence() const { return KvSequence(pages_); }
  const KvPagePool& pages() const { return *pages_; }

  // Reads the runs' tokens after those that their sequences hold; the result are the final states
  // of all of them, [tokens, width], valid until the next call. Sequences are as they were if it
  // fails: Error(damaged) for a token outside the vocabulary or numbers that are not finite,
  // Error(unsupported) for more tokens than the model's context.
  std::span<const float> read(std::span<const EngineRun> runs);

  // Logits [rows, vocabulary] of final states [rows, width].
  void logits(std::span<const float> states, std::span<float> out);
  Head& head() { return head_; }

  // Called with every row of codes, less the zero's shift if they are inputs of 8 bits; slow, for
  // tests. One thread only.
  std::function<void(TapPoint, int64_t layer, int64_t row, std::span<const int32_t> codes)> trace;

 private:
  struct Row {
    KvSequence* sequence;
    int64_t position;
    int32_t token;
  };

  void rotate_up_to(int64_t positions);
  void pass(int64_t first, int64_t rows);
  void block(int64_t layer);
  void norm_to_codes(int64_t layer, TapPoint point, const std::vector<float>& gain,
                     const kernels::CodeGrid& grid, const std::vector<float>& offset);
  void product(const PackedLinear& weight, float* out, const float* residual);
  void append_keys_and_values(int64_t layer);
  void attend(int64_t layer);
  void mlp_product_to_codes(int64_t layer);
  void note(bool finite) {
    if (!finite) not_finite_.store(true, std::memory_order_relaxed);
  }
  void show(TapPoint point, int64_t layer, int64_t columns);
  void show_cached(TapPoint point, int64_t layer, int64_t row, const uint8_t* codes);

  std::unique_ptr<const RuntimeModel> model_;
  const kernels::EngineKernels& kernels_;
  const kernels::CodeProducts& products_;
  WorkerPool pool_;
  Head head_;
  std::shared_ptr<KvPagePool> pages_;
  std::vector<float> cos_, sin_;  // [rotated_, pairs]
  int64_t rotated_ = 0;           // positions whose angles are known

  // Of the pass in progress.
  std::vector<Row> rows_;
  std::vector<float> states_;  // [tokens of the call, width]
  std::vector<float> stream_;  // [rows, width]
  std::vector<float> wide_;    // [rows, outputs of qkv or gate and up]
  CodeBuffer codes_;
  std::atomic<bool> not_finite_ = false;
};

// The floating-point steps of the active instruction set.
const kernels::EngineKernels& active_engine_kernels();

}  // namespace osp
