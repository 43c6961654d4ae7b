#include "osp/ops/fused_attention.h"

#include <ATen/native/CPUBlas.h>
#include <ATen/ops/empty.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "osp/base/error.h"
#include "osp/ops/attention_kernels.h"
#include "osp/ops/isa.h"
#include "osp/ops/parallel.h"

namespace osp {
namespace {

using attention_kernels::kQueries;
using attention_kernels::QueryBlock;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kKeys = 128;   // keys of a packed block, as wide as products are efficient
constexpr int64_t kChunk = 512;  // keys whose products with a block of queries exist at a time

constexpr int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

using Bits = std::vector<uint16_t>;
using Floats = std::vector<float>;

// C [m, n] = A [m, k] B (+ C), bf16 to fp32; B in pairs, k even. A JIT kernel per shape and thread:
// callers keep the number of shapes small.
void product(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t stride_a,
             const uint16_t* b, int64_t stride_b, float* c, int64_t stride_c, bool add) {
  at::native::cpublas::brgemm(m, n, k, stride_a, stride_b, stride_c, add,
                              reinterpret_cast<const at::BFloat16*>(a),
                              reinterpret_cast<const at::BFloat16*>(b), c, true);
}

// A [B, T, heads, K] tensor of bf16 as its rows are walked.
struct Heads {
  uint16_t* data;
  int64_t batch_stride, time_stride, head_stride;

  explicit Heads(const at::Tensor& x)
      : data(static_cast<uint16_t*>(x.data_ptr())),
        batch_stride(x.stride(0)),
        time_stride(x.stride(1)),
        head_stride(x.stride(2)) {}
  uint16_t* row(int64_t b, int64_t t, int64_t h) const {
    return data + b * batch_stride + t * time_stride + h * head_stride;
  }
};

struct Shape {
  int64_t B, T, H, Hkv, K;
  float scale;

  Shape(const at::Tensor& q, const at::Tensor& k)
      : B(q.size(0)),
        T(q.size(1)),
        H(q.size(2)),
        Hkv(k.size(2)),
        K(q.size(3)),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(K)))) {}
  int64_t group() const { return H / Hkv; }
  int64_t padded() const { return round_up(T, kKeys); }
};

// Neighbouring queries of one head, and the keys that any of them sees.
struct Block {
  int64_t begin, count;
  int64_t first_key, end_key;  // the first rounded down to a whole chunk of packed keys
};

// The blocks of queries of one sequence.
std::vector<Block> blocks_of(const Shape& shape, const int32_t* first) {
  std::vector<Block> blocks;
  for (int64_t begin = 0; begin < shape.T; begin += kQueries) {
    const int64_t count = std::min(kQueries, shape.T - begin);
    const int64_t first_key = first == nullptr ? 0 : first[begin] / kKeys * kKeys;
    blocks.push_back({begin, count, first_key, begin + count});
  }
  return blocks;
}

const int32_t* first_of(const at::Tensor& first_BT, int64_t b) {
  if (!first_BT.defined()) return nullptr;
  return first_BT.const_data_ptr<int32_t>() + (first_BT.size(0) == 1 ? 0 : b * first_BT.size(1));
}

// Calls work(task, state) for every sequence and key head, each thread with a state of its own.
template <class State, class Work>
void for_each_key_head(const Shape& shape, const Work& work) {
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    int64_t i = next++;
    if (i >= shape.B * shape.Hkv) return;
    State state(shape);
    for (; i < shape.B * shape.Hkv; i = next++) work(i / shape.Hkv, i % shape.Hkv, state);
    at::native::cpublas::brgemm_release();
  });
}

struct Forward {
  const Shape& shape;
  Heads q, k, v, out;
  const at::Tensor& first_BT;
  float* log_sum_BHT;
};

struct ForwardState {
  Bits keys, values;  // packed: [T/kKeys][K/2, kKeys, 2] and [T/2, K, 2]
  Bits p;             // [kQueries, T]
  Floats logits;      // [kQueries, T]
  Floats sums;        // [kQueries, K]
  float totals[kQueries];

  explicit ForwardState(const Shape& s)
      : keys(s.padded() * s.K),
        values(s.padded() * s.K),
        p(kQueries * s.padded()),
        logits(kQueries * s.padded()),
        sums(kQueries * s.K) {}
};

void pack_keys(const Forward& f, int64_t b, int64_t h, ForwardState& state) {
  const Shape& s = f.shape;
  for (int64_t key = 0; key < s.T; key += kKeys) {
    attention_kernels::pack_transposed(f.k.row(b, key, h), f.k.time_stride,
                                       std::min(kKeys, s.T - key), s.K, &state.keys[key * s.K],
                                       kKeys);
  }
  attention_kernels::pack_pairs(f.v.row(b, 0, h), f.v.time_stride, s.T, s.K, state.values.data());
}

// Writes the output and the log-sum-exp of a block of queries.
void forward_block(const Forward& f, int64_t b, int64_t h, const Block& block,
                   ForwardState& state) {
  const Shape& s = f.shape;
  const int64_t width = s.padded();
  const uint16_t* q = f.q.row(b, block.begin, h);

  // Logits: queries times each packed block of keys.
  for (int64_t key = block.first_key; key < block.end_key; key += kKeys) {
    const int64_t columns = std::min(kKeys, round_up(block.end_key - key, kQueries));
    product(block.count, columns, s.K, q, f.q.time_stride, &state.keys[key * s.K], kKeys,
            &state.logits[key], width, false);
  }

  // Probabilities of the visible keys, not yet divided by their sum.
  const int32_t* first = first_of(f.first_BT, b);
  const int64_t seen = round_up(block.end_key, kQueries);
  for (int64_t i = 0; i < block.count; ++i) {
    const int64_t t = block.begin + i;
    state.totals[i] = attention_kernels::softmax_row(
        &state.logits[i * width], first == nullptr ? 0 : first[t], t, s.scale, &state.p[i * width],
        seen, f.log_sum_BHT + (b * s.H + h) * s.T + t);
  }

  // Probabilities times values, summed over chunks of keys.
  for (int64_t key = block.first_key; key < seen; key += kChunk) {
    product(block.count, s.K, std::min(kChunk, seen - key), &state.p[key], width,
            &state.values[key * s.K], s.K, state.sums.data(), s.K, key > block.first_key);
  }

  // Divide by the sum and round.
  for (int64_t i = 0; i < block.count; ++i) {
    attention_kernels::round_scaled(&state.sums[i * s.K], 1.0f / state.totals[i],
                                    f.out.row(b, block.begin + i, h), s.K);
  }
}

struct Backward {
  const Shape& shape;
  Heads q, k, v, out, d_out, dq, dk, dv;
  const at::Tensor& first_BT;
  const float* log_sum_BHT;
};

struct BackwardState {
  Bits keys_transposed;       // [K, T]
  Floats dk, dv;              // [T, K]
  Bits q_columns, d_columns;  // pairs of the transposes, [K/2, kQueries, 2]
  Bits q_rows, d_rows;        // pairs, [kQueries/2, K, 2]
  Floats logits, d_p;         // [kChunk, kQueries]
  Bits p, ds, ds_pairs;       // [kChunk, kQueries]
  Floats dq;                  // [K, kQueries]
  QueryBlock queries;

  explicit BackwardState(const Shape& s)
      : keys_transposed(s.K * s.padded()),
        dk(s.T * s.K),
        dv(s.T * s.K),
        q_columns(s.K * kQueries),
        d_columns(s.K * kQueries),
        q_rows(s.K * kQueries),
        d_rows(s.K * kQueries),
        logits(kChunk * kQueries),
        d_p(kChunk * kQueries),
        p(kChunk * kQueries),
        ds(kChunk * kQueries),
        ds_pairs(kChunk * kQueries),
        dq(s.K * kQueries) {}
};

// Reads what the products need of a block of queries: log-sum-exp, delta = out · d_out, visible
// keys, and q and d_out in the layouts of both operands.
void read_queries(const Backward& g, int64_t b, int64_t h, const Block& block,
                  BackwardState& state) {
  const Shape& s = g.shape;
  const int32_t* first = first_of(g.first_BT, b);
  for (int64_t i = 0; i < kQueries; ++i) {
    const bool exists = i < block.count;
    const int64_t t = block.begin + i;
    state.queries.log_sum[i] = exists ? g.log_sum_BHT[(b * s.H + h) * s.T + t] : 0.0f;
    state.queries.delta[i] =
        exists ? attention_kernels::dot(g.out.row(b, t, h), g.d_out.row(b, t, h), s.K) : 0.0f;
    state.queries.first[i] = exists && first != nullptr ? first[t] : 0;
    state.queries.last[i] = exists ? static_cast<int32_t>(t) : -1;
  }
  const auto pack = [&](const Heads& x, Bits& columns, Bits& rows) {
    const uint16_t* data = x.row(b, block.begin, h);
    attention_kernels::pack_transposed(data, x.time_stride, block.count, s.K, columns.data(),
                                       kQueries);
    if (block.count < kQueries) std::fill(rows.begin(), rows.end(), uint16_t{0});
    attention_kernels::pack_pairs(data, x.time_stride, block.count, s.K, rows.data());
  };
  pack(g.q, state.q_columns, state.q_rows);
  pack(g.d_out, state.d_columns, state.d_rows);
}

// Adds a block's share to dk and dv, and writes its dq.
void backward_block(const Backward& g, int64_t b, int64_t h, int64_t key_head, const Block& block,
                    BackwardState& state) {
  const Shape& s = g.shape;
  read_queries(g, b, h, block, state);
  for (int64_t key = block.first_key; key < block.end_key; key += kChunk) {
    const int64_t keys = std::min(kChunk, block.end_key - key);
    // Logits again, and the gradient of the probabilities.
    product(keys, kQueries, s.K, g.k.row(b, key, key_head), g.k.time_stride, state.q_columns.data(),
            kQueries, state.logits.data(), kQueries, false);
    product(keys, kQueries, s.K, g.v.row(b, key, key_head), g.v.time_stride, state.d_columns.data(),
            kQueries, state.d_p.data(), kQueries, false);
    // Probabilities p and the gradient ds of the logits.
    attention_kernels::probability_gradient(state.logits.data(), state.d_p.data(), state.queries,
                                            key, keys, s.scale, state.p.data(), state.ds.data(),
                                            state.ds_pairs.data());
    // dv += pᵀ d_out, dk += dsᵀ q, dq += ds k.
    product(keys, s.K, kQueries, state.p.data(), kQueries, state.d_rows.data(), s.K,
            &state.dv[key * s.K], s.K, true);
    product(keys, s.K, kQueries, state.ds.data(), kQueries, state.q_rows.data(), s.K,
            &state.dk[key * s.K], s.K, true);
    product(s.K, kQueries, round_up(keys, 2), &state.keys_transposed[key], s.padded(),
            state.ds_pairs.data(), kQueries, state.dq.data(), kQueries, key > block.first_key);
  }
  attention_kernels::round_transposed(state.dq.data(), s.scale, block.count, s.K,
                                      g.dq.row(b, block.begin, h), g.dq.time_stride);
}

// Writes dk and dv of a key head and dq of all query heads that share it.
void backward_key_head(const Backward& g, int64_t b, int64_t key_head, BackwardState& state) {
  const Shape& s = g.shape;
  attention_kernels::transpose(g.k.row(b, 0, key_head), g.k.time_stride, s.T, s.K,
                               state.keys_transposed.data(), s.padded());
  std::fill(state.dk.begin(), state.dk.end(), 0.0f);
  std::fill(state.dv.begin(), state.dv.end(), 0.0f);
  const std::vector<Block> blocks = blocks_of(s, first_of(g.first_BT, b));
  for (int64_t h = key_head * s.group(); h < (key_head + 1) * s.group(); ++h) {
    for (const Block& block : blocks) backward_block(g, b, h, key_head, block, state);
  }
  for (int64_t t = 0; t < s.T; ++t) {
    attention_kernels::round_scaled(&state.dk[t * s.K], s.scale, g.dk.row(b, t, key_head), s.K);
    attention_kernels::round_scaled(&state.dv[t * s.K], 1.0f, g.dv.row(b, t, key_head), s.K);
  }
}

// The first keys, which may be undefined; autograd refuses undefined tensors as such.
struct Visible {
  at::Tensor first_BT;
};

struct FusedAttention : torch::autograd::Function<FusedAttention> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const Visible& visible) {
    RECORD_USER_SCOPE("osp::attention");
    const Shape s(q, k);
    const at::Tensor& first_BT = visible.first_BT;
    const at::Tensor out = at::empty(q.sizes(), q.options());
    const at::Tensor log_sum = at::empty({s.B, s.H, s.T}, q.options().dtype(at::kFloat));
    const Forward f{
        s, Heads(q), Heads(k), Heads(v), Heads(out), first_BT, log_sum.mutable_data_ptr<float>()};
    for_each_key_head<ForwardState>(s, [&](int64_t b, int64_t key_head, ForwardState& state) {
      pack_keys(f, b, key_head, state);
      for (int64_t h = key_head * s.group(); h < (key_head + 1) * s.group(); ++h) {
        for (const Block& block : blocks_of(s, first_of(first_BT, b))) {
          forward_block(f, b, h, block, state);
        }
      }
    });
    ctx->save_for_backward({q, k, v, out, log_sum});
    ctx->saved_data["first"] = first_BT;
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3];
    const at::Tensor d_out = d[0].stride(3) == 1 ? d[0] : d[0].contiguous();
    const Shape s(q, k);
    const at::Tensor dq = at::empty(q.sizes(), q.options()), dk = at::empty(k.sizes(), k.options()),
                     dv = at::empty(v.sizes(), v.options());
    const at::Tensor first_BT = ctx->saved_data["first"].toTensor();
    const Backward g{s,
                     Heads(q),
                     Heads(k),
                     Heads(v),
                     Heads(out),
                     Heads(d_out),
                     Heads(dq),
                     Heads(dk),
                     Heads(dv),
                     first_BT,
                     saved[4].const_data_ptr<float>()};
    for_each_key_head<BackwardState>(s, [&](int64_t b, int64_t key_head, BackwardState& state) {
      backward_key_head(g, b, key_head, state);
    });
    return {dq, dk, dv, {}};
  }
};

void check_inputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const at::Tensor& first_BT) {
  OSP_CHECK(k.sizes() == v.sizes() && k.size(0) == q.size(0) && k.size(1) == q.size(1) &&
                k.size(3) == q.size(3) && q.size(2) % k.size(2) == 0,
            "keys and values do not fit the queries");
  if (!first_BT.defined()) return;
  OSP_CHECK(first_BT.scalar_type() == at::kInt && first_BT.is_contiguous() &&
                (first_BT.size(0) == 1 || first_BT.size(0) == q.size(0)) &&
                first_BT.size(1) == q.size(1),
            "first keys are int32 [B, T] or [1, T]");
}

at::Tensor with_whole_rows(const at::Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); }

}  // namespace

bool has_fused_attention(const at::Device& device, at::ScalarType type, int64_t head_size) {
  static const bool supported = has_avx512_bf16();
  return supported && device.is_cpu() && type == at::kBFloat16 && head_size % 2 == 0;
}

bool has_fused_attention(const at::Tensor& q_BTHK) {
  return has_fused_attention(q_BTHK.device(), q_BTHK.scalar_type(), q_BTHK.size(3));
}

at::Tensor fused_attention(const at::Tensor& q_BTHK, const at::Tensor& k_BTHK,
                           const at::Tensor& v_BTHK, const at::Tensor& first_BT) {
  OSP_CHECK(has_fused_attention(q_BTHK), "no fused attention for this type on this CPU");
  check_inputs(q_BTHK, k_BTHK, v_BTHK, first_BT);
  if (q_BTHK.numel() == 0) return at::empty_like(q_BTHK);
  return FusedAttention::apply(with_whole_rows(q_BTHK), with_whole_rows(k_BTHK),
                               with_whole_rows(v_BTHK), Visible{first_BT});
}

}  // namespace osp
