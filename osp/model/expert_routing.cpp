#include "osp/model/expert_routing.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/topk.h>

#include <tuple>

#include "osp/base/error.h"

namespace osp {

ExpertRouting route_tokens(const at::Tensor& logits, int64_t sequences, int64_t experts_per_token,
                           bool normalized, bool of_chosen) {
  const int64_t tokens = logits.size(0), experts = logits.size(1), k = experts_per_token;
  OSP_CHECK(sequences > 0 && tokens % sequences == 0, "{} tokens in {} sequences", tokens,
            sequences);
  ExpertRouting routing;
  routing.sequences = sequences;
  routing.length = tokens / sequences;
  // Choose the experts of every token.
  const auto type = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto [weights, chosen] = at::topk(of_chosen ? logits : at::softmax(logits, -1, type), k);
  if (of_chosen) weights = at::softmax(weights, -1, type);
  if (normalized) weights = weights / weights.sum(-1, /*keepdim=*/true);
  routing.weights = weights.to(logits.scalar_type());
  routing.experts = chosen;
  // Sort the pairs of token and slot by expert; within one they stay in the order of tokens.
  const at::Tensor flat = chosen.flatten();
  const at::Tensor pairs = at::argsort(flat, /*stable=*/true, 0, /*descending=*/false);
  const at::Tensor token = pairs.div(k, "floor"), slot = pairs.remainder(k);
  const at::Tensor sequence = token.div(routing.length, "floor");
  const at::Tensor place = (sequence * k + slot) * routing.length + token.remainder(routing.length);
  const at::Tensor weight = routing.weights.flatten().index_select(0, pairs).unsqueeze(1);
  // Cut at the ends of experts.
  const at::Tensor counts = at::bincount(flat, {}, experts).to(at::kCPU);
  const int64_t* count = counts.const_data_ptr<int64_t>();
  for (int64_t expert = 0, first = 0; expert < experts; first += count[expert++]) {
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, first, count[expert]); };
    routing.rows.push_back({part(token), part(place), part(weight)});
  }
  return routing;
}

}  // namespace osp
