#include "osp/runtime/engine.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/ops/rope.h"
#include "osp/runtime/linear_product.h"

namespace osp {
namespace {

using kernels::kTileQueries;

// Rows that go through the layers together: their outputs stay in the second-level cache.
constexpr int64_t kPassRows = 64;
// Tokens of a text whose keys and values one thread writes: whole lines of the panels of values.
constexpr int64_t kPieceTokens = 16;
// Positions for which the angles of the rotary embedding are computed at once, at least: a context
// may be millions of tokens long, and texts seldom are.
constexpr int64_t kFewestRotated = 4096;

// Gains and offsets as kernels take them: null where a model has none.
const float* data_or_null(const std::vector<float>& x) { return x.empty() ? nullptr : x.data(); }

void scale(float* x, float factor, int64_t count) {
  for (int64_t i = 0; i < count; ++i) x[i] *= factor;
}

}  // namespace

const kernels::EngineKernels& active_engine_kernels() {
  return for_active_isa<const kernels::EngineKernels&>(kernels::engine_kernels_portable,
                                                       kernels::engine_kernels_avx2,
                                                       kernels::engine_kernels_avx512);
}

Engine::Engine(std::unique_ptr<const RuntimeModel> model, const EngineOptions& options)
    : model_(std::move(model)),
      kernels_(options.kernels != nullptr ? *options.kernels : active_engine_kernels()),
      products_(options.products != nullptr ? *options.products : active_code_products()),
      pool_(options.threads),
      head_(model_->head_table(), model_->config.vocabulary, model_->config.width,
            options.head_bits, kernels_, products_, model_->packed_head),
      pages_(std::make_shared<KvPagePool>(kv_shape())),
      codes_(products_.wide != nullptr) {}

Engine::~Engine() = default;

std::string Engine::kernel_names() const {
  return std::string(products_.name) + ", " + kernels_.name;
}

KvShape Engine::kv_shape() const {
  const ModelConfig& config = model_->config;
  return {config.layers, config.kv_heads, config.head_size, model_->cache_bits};
}

void Engine::rotate_up_to(int64_t positions) {
  if (positions <= rotated_) return;
  const ModelConfig& config = model_->config;
  const int64_t count =
      std::min(config.context, std::max({positions, 2 * rotated_, kFewestRotated}));
  const RopeTables tables =
      make_rope_tables(count, config.rotary_size, config.rope_theta, config.rope_scaling);
  const auto copy = [](const at::Tensor& x) {
    return std::vector<float>(x.const_data_ptr<float>(), x.const_data_ptr<float>() + x.numel());
  };
  std::vector<float> cos = copy(tables.cos), sin = copy(tables.sin);
  // From here on nothing fails: a table is never shorter than rotated_ says.
  cos_ = std::move(cos);
  sin_ = std::move(sin);
  rotated_ = count;
}

std::span<const float> Engine::read(std::span<const EngineRun> runs) {
  const ModelConfig& config = model_->config;
  // Refuse what does not fit, and ids outside of the vocabulary.
  int64_t total = 0, longest = 0;
  for (const EngineRun& run : runs) {
    const auto count = static_cast<int64_t>(run.tokens.size());
    total += count;
    longest = std::max(longest, run.sequence->length() + count);
    if (run.sequence->length() + count > config.context) {
      const bool longrope = config.rope_scaling.type == "longrope";
      fail(ErrorCode::unsupported, "{} tokens do not fit {} {}{}", run.sequence->length() + count,
           longrope ? "the" : "the model's context of", config.context,
           longrope ? " up to which the rotary embedding (longrope) of the model has one set of "
                      "factors, the only one on the integer engine; run the folder that was "
                      "quantized with --engine simulated, which has both"
                    : "");
    }
    for (const int32_t id : run.tokens) {
      if (id < 0 || id >= config.vocabulary) {
        fail(ErrorCode::damaged, "token {} is outside the vocabulary of {}", id, config.vocabulary);
      }
    }
  }
  rotate_up_to(longest);
  // Make pages and list all rows.
  std::vector<Row> all;
  all.reserve(static_cast<size_t>(total));
  for (const EngineRun& run : runs) {
    run.sequence->reserve(static_cast<int64_t>(run.tokens.size()));
    int64_t position = run.sequence->length();
    for (const int32_t id : run.tokens) all.push_back({run.sequence, position++, id});
  }
  // Some rows at a time through all layers.
  states_.resize(static_cast<size_t>(total * config.width));
  not_finite_ = false;
  for (int64_t first = 0; first < total; first += kPassRows) {
    leave_if_stopped("a model was running");
    const int64_t now = std::min(kPassRows, total - first);
    // Look up the embeddings of these rows.
    rows_.assign(all.begin() + first, all.begin() + first + now);
    stream_.resize(static_cast<size_t>(now * config.width));
    for (int64_t r = 0; r < now; ++r) {
      const int64_t token = rows_[static_cast<size_t>(r)].token;
      kernels_.from_half(model_->embedding.data() + token * config.width,
                         stream_.data() + r * config.width, config.width);
      if (config.embedding_multiplier != 1.0) {
        scale(stream_.data() + r * config.width, static_cast<float>(config.embedding_multiplier),
              config.width);
      }
    }
    pass(first, now);
  }
  // The texts become longer only if all numbers are finite.
  if (not_finite_) {
    fail(ErrorCode::damaged,
         "the model's activations are not finite: its weights or scales are damaged");
  }
  for (const EngineRun& run : runs) run.sequence->advance(static_cast<int64_t>(run.tokens.size()));
  return states_;
}

// The rows of rows_ from embeddings in stream_ to final states.
void Engine::pass(int64_t first, int64_t rows) {
  const ModelConfig& config = model_->config;
  for (int64_t layer = 0; layer < config.layers; ++layer) block(layer);
  const float* gain = data_or_null(model_->final_gain);
  for (int64_t r = 0; r < rows; ++r) {
    kernels_.rms_norm(stream_.data() + r * config.width, gain,
                      states_.data() + (first + r) * config.width, config.width,
                      static_cast<float>(config.norm_eps));
  }
}

void Engine::block(int64_t layer) {
  const RuntimeLayer& l = model_->layers[static_cast<size_t>(layer)];
  const ModelConfig& config = model_->config;
  const auto rows = static_cast<int64_t>(rows_.size());
  wide_.resize(static_cast<size_t>(rows * std::max(l.qkv.outputs, l.gate_up.outputs)));
  // Attention.
  norm_to_codes(layer, TapPoint::attention_input, l.input_gain, l.attention_input_grid,
                l.attention_input_offset);
  product(l.qkv, wide_.data(), nullptr);
  append_keys_and_values(layer);
  codes_.resize(rows, config.heads * config.head_size, l.attention_output_grid);
  attend(layer);
  show(TapPoint::attention_output, layer, config.heads * config.head_size);
  product(l.attention_output, stream_.data(), stream_.data());
  // Feed-forward network.
  norm_to_codes(layer, TapPoint::mlp_input, l.post_gain, l.mlp_input_grid, l.mlp_input_offset);
  product(l.gate_up, wide_.data(), nullptr);
  mlp_product_to_codes(layer);
  product(l.down, stream_.data(), stream_.data());
}

void Engine::norm_to_codes(int64_t layer, TapPoint point, const std::vector<float>& gain,
                           const kernels::CodeGrid& grid, const std::vector<float>& offset) {
  const ModelConfig& config = model_->config;
  const int64_t D = config.width;
  const auto rows = static_cast<int64_t>(rows_.size());
  codes_.resize(rows, D, grid);
  pool_.split(rows, [&](int64_t begin, int64_t end) {
    std::vector<float> y(static_cast<size_t>(D));
    for (int64_t r = begin; r < end; ++r) {
      kernels_.rms_norm(stream_.data() + r * D, data_or_null(gain), y.data(), D,
                        static_cast<float>(config.norm_eps));
      note(kernels_.quantize(y.data(), data_or_null(offset), D, grid, codes_.row(r)));
    }
  });
  show(point, layer, D);
}

// out [rows, outputs] = (residual +) the product of the codes with the layer.
void Engine::product(const PackedLinear& weight, float* out, const float* residual) {
  linear_product(codes_, weight, kernels_, products_, residual, out, pool_);
}

// Norms, RoPE and Hadamard of queries and keys in place, then keys and values into the cache.
void Engine::append_keys_and_values(int64_t layer) {
  const RuntimeLayer& l = model_->layers[static_cast<size_t>(layer)];
  const ModelConfig& config = model_->config;
  const int64_t H = config.heads, Hkv = config.kv_heads, K = config.head_size;
  const int64_t N = l.qkv.outputs, row_pairs = config.rotary_size / 2;
  const int64_t pairs = config.rotates(layer) ? row_pairs : 0;
  const auto eps = static_cast<float>(config.norm_eps);
  const auto rows = static_cast<int64_t>(rows_.size());
  // Normalise queries and keys over all heads, where the model does.
  if (config.qk_norm && config.qk_norm_wide) {
    for (int64_t r = 0; r < rows; ++r) {
      float* q = wide_.data() + r * N;
      kernels_.rms_norm(q, l.query_gain.data(), q, H * K, eps);
      kernels_.rms_norm(q + H * K, l.key_gain.data(), q + H * K, Hkv * K, eps);
    }
  }
  const kernels::HadamardPlan plan = model_->key_hadamard.plan();
  // By key/value head and piece of a text: tokens that share lines of the values' panels
  // stay together.
  std::vector<int64_t> pieces = {0};
  for (int64_t r = 1; r < rows; ++r) {
    const Row &row = rows_[static_cast<size_t>(r)], &before = rows_[static_cast<size_t>(r - 1)];
    if (row.sequence != before.sequence || row.position % kPieceTokens == 0) pieces.push_back(r);
  }
  pieces.push_back(rows);
  const auto num_pieces = static_cast<int64_t>(pieces.size()) - 1;
  pool_.split(Hkv * num_pieces, [&](int64_t begin, int64_t end) {
    float scratch[kernels::kLargestHead + 16];
    uint8_t codes[2 * kernels::kLargestHead];
    // Norm of a head, rotary embedding and Hadamard transform.
    const auto turn = [&](float* x, const std::vector<float>& gain, int64_t position) {
      if (config.qk_norm && !config.qk_norm_wide) kernels_.rms_norm(x, gain.data(), x, K, eps);
      kernels_.rope(x, cos_.data() + position * row_pairs, sin_.data() + position * row_pairs,
                    pairs);
      if (plan.size > 0) kernels_.hadamard(x, 1, plan, scratch);
    };
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / num_pieces;
      const auto piece = static_cast<size_t>(task % num_pieces);
      for (int64_t r = pieces[piece]; r < pieces[piece + 1]; ++r) {
        float* row = wide_.data() + r * N;
        const int64_t position = rows_[static_cast<size_t>(r)].position;
        const int64_t group = H / Hkv;
        const auto growth = static_cast<float>(query_scale(config.rope_scaling, position));
        // Prepare the queries that read this head.
        for (int64_t q = head * group; q < (head + 1) * group; ++q) {
          turn(row + q * K, l.query_gain, position);
          if (growth != 1.0f) scale(row + q * K, growth, K);
        }
        // Prepare the key; the value is stored as it is.
        float* key = row + (H + head) * K;
        const float* value = row + (H + Hkv + head) * K;
        turn(key, l.key_gain, position);
        // Round both to codes, and put them into the page of the position.
        KvPage& page = rows_[static_cast<size_t>(r)].sequence->page_of(position);
        const int64_t slot = position % kernels::kPageTokens;
        float scale, zero;
        note(kernels_.cache_codes(key, K, model_->key_grid, codes, &scale, &zero));
        page.put_key(layer, head, slot, codes, scale, zero);
        if (trace) show_cached(TapPoint::key, layer, r * Hkv + head, codes);
        note(kernels_.cache_codes(value, K, model_->value_grid, codes, &scale, &zero));
        page.put_value(layer, head, slot, codes, scale, zero);
        if (trace) show_cached(TapPoint::value, layer, r * Hkv + head, codes);
      }
    }
  });
}

// Attention of all rows, and the codes of its output.
void Engine::attend(int64_t layer) {
  const RuntimeLayer& l = model_->layers[static_cast<size_t>(layer)];
  const ModelConfig& config = model_->config;
  const int64_t Hkv = config.kv_heads, K = config.head_size, group = config.heads / Hkv;
  const int64_t N = l.qkv.outputs;
  const int64_t window = config.window_of(layer);
  // Tasks: up to kTileQueries queries of one sequence and key/value head.
  struct Task {
    int64_t first_row, first_query, queries, head;
  };
  std::vector<Task> tasks;
  const auto rows = static_cast<int64_t>(rows_.size());
  // Neighbouring rows of one sequence are cut into tasks, for each head.
  for (int64_t begin = 0, end = 0; begin < rows; begin = end) {
    while (end < rows &&
           rows_[static_cast<size_t>(end)].sequence == rows_[static_cast<size_t>(begin)].sequence) {
      ++end;
    }
    for (int64_t head = 0; head < Hkv; ++head) {
      for (int64_t q = 0; q < (end - begin) * group; q += kTileQueries) {
        tasks.push_back({begin, q, std::min(kTileQueries, (end - begin) * group - q), head});
      }
    }
  }
  pool_.split(static_cast<int64_t>(tasks.size()), [&](int64_t from, int64_t to) {
    std::vector<kernels::HeadPage> pages;
    alignas(64) float outputs[kTileQueries][kernels::kLargestHead];
    for (int64_t i = from; i < to; ++i) {
      const Task& task = tasks[static_cast<size_t>(i)];
      // Gather the pages of the sequence, and the queries with the keys that they see.
      const KvSequence& sequence = *rows_[static_cast<size_t>(task.first_row)].sequence;
      pages.clear();
      for (const auto& page : sequence.pages()) pages.push_back(page->part(layer, task.head));
      kernels::AttentionTile tile;
      tile.queries = task.queries;
      tile.head_size = K;
      tile.cache_bits = model_->cache_bits;
      tile.inverse_root = static_cast<float>(config.attention_multiplier > 0
                                                 ? config.attention_multiplier
                                                 : 1.0 / std::sqrt(static_cast<double>(K)));
      tile.pages = pages.data();
      const auto row_of = [&](int64_t q) {
        return task.first_row + (task.first_query + q) / group;
      };
      const auto head_of = [&](int64_t q) {
        return task.head * group + (task.first_query + q) % group;
      };
      for (int64_t q = 0; q < task.queries; ++q) {
        const int64_t row = row_of(q), head = head_of(q);
        tile.query[q] = wide_.data() + row * N + head * K;
        tile.output[q] = outputs[q];
        tile.position[q] = rows_[static_cast<size_t>(row)].position;
        tile.first_visible[q] =
            window > 0 ? std::max<int64_t>(0, tile.position[q] - window + 1) : 0;
      }
      // Compute, and round the outputs for the output projection.
      kernels_.attention(tile, products_);
      for (int64_t q = 0; q < task.queries; ++q) {
        const int64_t at = head_of(q) * K;
        const float* offset = data_or_null(l.attention_output_offset);
        note(kernels_.quantize(outputs[q], offset == nullptr ? nullptr : offset + at, K,
                               l.attention_output_grid, codes_.row(row_of(q), at)));
      }
    }
  });
}

void Engine::mlp_product_to_codes(int64_t layer) {
  const RuntimeLayer& l = model_->layers[static_cast<size_t>(layer)];
  const int64_t F = model_->config.inner;
  const auto rows = static_cast<int64_t>(rows_.size());
  codes_.resize(rows, F, l.mlp_product_grid);
  const kernels::HadamardPlan plan = model_->down_hadamard.plan();
  const float* offset = data_or_null(l.mlp_product_offset);
  pool_.split(rows, [&](int64_t begin, int64_t end) {
    std::vector<float> scratch(static_cast<size_t>(plan.size + 16));
    for (int64_t r = begin; r < end; ++r) {
      float* x = wide_.data() + r * 2 * F;
      kernels_.swiglu(x, x, F);
      if (plan.size > 0) kernels_.hadamard(x, F / plan.size, plan, scratch.data());
      note(kernels_.quantize(x, offset, F, l.mlp_product_grid, codes_.row(r)));
    }
  });
  show(TapPoint::mlp_product, layer, F);
}

void Engine::show(TapPoint point, int64_t layer, int64_t columns) {
  if (!trace) return;
  std::vector<int32_t> codes(static_cast<size_t>(columns));
  for (int64_t r = 0; r < static_cast<int64_t>(rows_.size()); ++r) {
    const kernels::CodeRow row = codes_.row(r);
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t at = c / 4 * row.stride + c % 4;
      codes[static_cast<size_t>(c)] =
          row.low_codes == nullptr ? row.codes[at] : 256 * row.codes[at] + row.low_codes[at];
    }
    trace(point, layer, r, codes);
  }
}

void Engine::show_cached(TapPoint point, int64_t layer, int64_t row, const uint8_t* codes) {
  const int64_t K = model_->config.head_size;
  std::vector<int32_t> whole(codes, codes + K);
  if (model_->cache_bits == 16) {
    for (size_t c = 0; c < whole.size(); ++c) {
      whole[c] = 256 * whole[c] + codes[static_cast<size_t>(K) + c];
    }
  }
  trace(point, layer, row, whole);
}

void Engine::logits(std::span<const float> states, std::span<float> out) {
  head_.logits(states, static_cast<int64_t>(states.size()) / model_->config.width, out, pool_);
}

}  // namespace osp
