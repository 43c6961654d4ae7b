#include "osp/ops/rope.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "osp/base/error.h"
#include "osp/ops/dispatch.h"

namespace osp {

at::Tensor rope_reference(const at::Tensor& x_BTHK, const RopeTables& tables,
                          int64_t first_position) {
  const int64_t T = x_BTHK.size(1);
  const at::Tensor cos = tables.cos.narrow(0, first_position, T).unsqueeze(1);
  const at::Tensor sin = tables.sin.narrow(0, first_position, T).unsqueeze(1);
  const auto halves = x_BTHK.chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1)
      .to(x_BTHK.scalar_type());
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A [B, T, H, K] tensor as the kernel walks it: strides of any order, the last one 1.
struct HeadLayout {
  int64_t batch_stride, time_stride, head_stride, heads;
  explicit HeadLayout(const at::Tensor& x)
      : batch_stride(x.stride(0)),
        time_stride(x.stride(1)),
        head_stride(x.stride(2)),
        heads(x.size(2)) {
    OSP_CHECK(x.stride(3) == 1, "channels of a head must be contiguous");
  }
};

at::Tensor with_contiguous_heads(const at::Tensor& x) {
  return x.stride(3) == 1 ? x : x.contiguous();
}

// out = rotation of in, both [B, T, H, K].
void rotate(const at::Tensor& in, const at::Tensor& out, const RopeTables& tables, int64_t first,
            float sin_sign) {
  RECORD_USER_SCOPE("osp::rope");
  const int64_t B = in.size(0), T = in.size(1), K = in.size(3), half = K / 2;
  const HeadLayout from(in), to(out);
  const float* cos = tables.cos.const_data_ptr<float>();
  const float* sin = tables.sin.const_data_ptr<float>();
  dispatch(in, [&]<class S>(const kernels::TypedKernels<S>& k) {
    at::parallel_for(0, B * T, row_grain(from.heads * K), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const int64_t b = n / T, t = n % T, row = (first + t) * half;
        k.rope_token(data<S>(in) + b * from.batch_stride + t * from.time_stride, from.head_stride,
                     mutable_data<S>(out) + b * to.batch_stride + t * to.time_stride,
                     to.head_stride, cos + row, sin + row, sin_sign, from.heads, K);
      }
    });
  });
}

void check_positions(const RopeTables& tables, int64_t first, int64_t count) {
  OSP_CHECK(first >= 0 && first + count <= tables.cos.size(0),
            "positions {} to {} but tables for {}", first, first + count, tables.cos.size(0));
}

struct Rope : torch::autograd::Function<Rope> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin, int64_t first) {
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["first"] = first;
    at::Tensor out = at::empty(x.sizes(), x.options());
    rotate(x, out, {cos, sin}, first, 1.0f);
    return out;
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor dy = with_contiguous_heads(d[0]);
    at::Tensor dx = at::empty(dy.sizes(), dy.options());
    rotate(dy, dx, {saved[0], saved[1]}, ctx->saved_data["first"].toInt(), -1.0f);
    return {dx, {}, {}, {}};
  }
};

// The q, k and v parts of qkv [B, T, (H + 2 Hkv) K] as views [B, T, heads, K].
std::array<at::Tensor, 3> parts_of(const at::Tensor& qkv, int64_t heads, int64_t kv_heads) {
  const int64_t B = qkv.size(0), T = qkv.size(1), K = qkv.size(2) / (heads + 2 * kv_heads);
  const at::Tensor split = qkv.view({B, T, heads + 2 * kv_heads, K});
  return {split.narrow(2, 0, heads), split.narrow(2, heads, kv_heads),
          split.narrow(2, heads + kv_heads, kv_heads)};
}

struct SplitRope : torch::autograd::Function<SplitRope> {
  static variable_list forward(AutogradContext* ctx, const at::Tensor& qkv, int64_t heads,
                               int64_t kv_heads, const at::Tensor& cos, const at::Tensor& sin,
                               int64_t first) {
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["kv_heads"] = kv_heads;
    ctx->saved_data["first"] = first;
    const auto in = parts_of(qkv, heads, kv_heads);
    at::Tensor q = at::empty(in[0].sizes(), qkv.options());
    at::Tensor k = at::empty(in[1].sizes(), qkv.options());
    rotate(in[0], q, {cos, sin}, first, 1.0f);
    rotate(in[1], k, {cos, sin}, first, 1.0f);
    return {q, k, in[2].contiguous()};
  }
  static variable_list backward(AutogradContext* ctx, variable_list d) {
    const auto saved = ctx->get_saved_variables();
    const int64_t heads = ctx->saved_data["heads"].toInt();
    const int64_t kv_heads = ctx->saved_data["kv_heads"].toInt();
    const int64_t first = ctx->saved_data["first"].toInt();
    const at::Tensor& like = d[0].defined() ? d[0] : d[1].defined() ? d[1] : d[2];
    const int64_t B = like.size(0), T = like.size(1), K = like.size(3);
    at::Tensor d_qkv = at::empty({B, T, (heads + 2 * kv_heads) * K}, like.options());
    const auto out = parts_of(d_qkv, heads, kv_heads);
    for (int i = 0; i < 3; ++i) {
      if (!d[i].defined()) {
        out[i].zero_();
      } else if (i < 2) {
        rotate(with_contiguous_heads(d[i]), out[i], {saved[0], saved[1]}, first, -1.0f);
      } else {
        out[i].copy_(d[i]);
      }
    }
    return {d_qkv, {}, {}, {}, {}, {}};
  }
};

// The channel pair whose angle goes `turns` times around within the original context.
double pair_of_turns(double turns, int64_t channels, double theta, const RopeScaling& scaling) {
  const double context = static_cast<double>(scaling.original_context);
  return static_cast<double>(channels) * std::log(context / (turns * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(theta));
}

// YaRN's share of the unscaled frequency.
double yarn_share(int64_t pair, int64_t channels, double theta, const RopeScaling& scaling) {
  double low = pair_of_turns(scaling.beta_fast, channels, theta, scaling);
  double high = pair_of_turns(scaling.beta_slow, channels, theta, scaling);
  if (scaling.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(channels - 1));
  if (low == high) high += 0.001;  // no division by zero
  return 1.0 - std::clamp((static_cast<double>(pair) - low) / (high - low), 0.0, 1.0);
}

double llama3_share(double frequency, const RopeScaling& scaling) {
  const double low = scaling.low_frequency_factor, high = scaling.high_frequency_factor;
  const double turns =
      static_cast<double>(scaling.original_context) * frequency / (2.0 * std::numbers::pi);
  if (turns > high) return 1.0;
  if (turns < low) return 0.0;
  return (turns - low) / (high - low);
}

// The angle between neighbouring tokens of a channel pair in a text of `tokens` tokens.
double scaled_frequency(int64_t pair, int64_t channels, double theta, const RopeScaling& scaling,
                        int64_t tokens) {
  const double frequency =
      std::pow(theta, -2.0 * static_cast<double>(pair) / static_cast<double>(channels));
  if (scaling.type == "default" || scaling.type == "dynamic") return frequency;
  if (scaling.type == "linear") return frequency / scaling.factor;
  if (scaling.type == "longrope") {
    const bool grown = beyond_original(scaling, tokens);
    return frequency / (grown ? scaling.long_factor : scaling.short_factor)[pair];
  }
  OSP_CHECK(scaling.type == "llama3" || scaling.type == "yarn", "rope scaling {}", scaling.type);
  const double share = scaling.type == "yarn" ? yarn_share(pair, channels, theta, scaling)
                                              : llama3_share(frequency, scaling);
  if (share == 1.0) return frequency;
  if (share == 0.0) return frequency / scaling.factor;
  return share * frequency + (1.0 - share) * frequency / scaling.factor;
}

}  // namespace

RopeTables make_rope_tables(int64_t positions, int64_t head_size, double theta,
                            const RopeScaling& scaling) {
  const int64_t half = head_size / 2;
  const double magnitude = rotary_magnitude(scaling);
  RopeTables tables{at::empty({positions, half}, at::kFloat),
                    at::empty({positions, half}, at::kFloat)};
  float* cos = tables.cos.mutable_data_ptr<float>();
  float* sin = tables.sin.mutable_data_ptr<float>();
  for (int64_t i = 0; i < half; ++i) {
    const double frequency = scaled_frequency(i, head_size, theta, scaling, positions);
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<double>(p) * frequency;
      cos[p * half + i] = static_cast<float>(magnitude * std::cos(angle));
      sin[p * half + i] = static_cast<float>(magnitude * std::sin(angle));
    }
  }
  return tables;
}

at::Tensor rope(const at::Tensor& x_BTHK, const RopeTables& tables, int64_t first_position) {
  check_positions(tables, first_position, x_BTHK.size(1));
  if (!has_kernels(x_BTHK)) return rope_reference(x_BTHK, tables, first_position);
  return Rope::apply(with_contiguous_heads(x_BTHK), tables.cos, tables.sin, first_position);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> split_rope(const at::Tensor& qkv_BTC, int64_t heads,
                                                          int64_t kv_heads,
                                                          const RopeTables& tables,
                                                          int64_t first_position) {
  check_positions(tables, first_position, qkv_BTC.size(1));
  if (!has_kernels(qkv_BTC)) {
    const auto part = parts_of(qkv_BTC.contiguous(), heads, kv_heads);
    return {rope_reference(part[0], tables, first_position),
            rope_reference(part[1], tables, first_position), part[2]};
  }
  const auto out = SplitRope::apply(qkv_BTC.contiguous(), heads, kv_heads, tables.cos, tables.sin,
                                    first_position);
  return {out[0], out[1], out[2]};
}

}  // namespace osp
