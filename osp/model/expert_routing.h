// The experts that tokens are sent to, in blocks whose feed-forward network is a mixture
// of experts.
//
//   p = softmax(W_r x)                    over all E experts, in fp32 (fp64 of a model in fp64)
//   e_1 … e_k                             the experts of the k largest p, by falling p (at::topk)
//   w_s = p(e_s)                          or p(e_s) / Σ_j p(e_j) with normalized_routing; with
//                                      routing_of_chosen that is softmax over the chosen W_r x
//   y   = Σ_s w_s down_{e_s}(act(gate_{e_s}(x)) · up_{e_s}(x))     with biases where there are any
//
// w is rounded to the type of W_r x. Tokens are grouped by expert: an expert gets all of its
// rows in one product, and experts without tokens cost nothing. As in the Qwen3-MoE, OLMoE and
// gpt-oss of transformers.
//
// Tested by expert_routing_test.cpp and tests/python/test_experts.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace osp {

// The rows of one expert, one per token that passes it.
struct ExpertRows {
  at::Tensor tokens;   // int64 [n]: rows of the input [B T, D], ascending
  at::Tensor places;   // int64 [n]: rows of the product [B k T, F], see below
  at::Tensor weights;  // [n, 1]: w of these tokens
};

// Slot s of token t in sequence b has row (b k + s) T + t of the product, so that the product is a
// tensor [B, k, T, F]: every token has a row for each of its experts.
struct ExpertRouting {
  int64_t sequences = 0, length = 0;  // B and T
  at::Tensor experts;                 // int64 [B T, k], by falling probability
  at::Tensor weights;                 // [B T, k]
  std::vector<ExpertRows> rows;       // of each expert; tensors without elements if it has none

  bool defined() const { return experts.defined(); }
};

// Routes B sequences of T tokens by the router's logits [B T, E].
ExpertRouting route_tokens(const at::Tensor& logits, int64_t sequences, int64_t experts_per_token,
                           bool normalized, bool of_chosen = false);

}  // namespace osp
