#include "osp/eval/request_scorer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/tensor.h>

#include <algorithm>

#include "osp/data/tokenizer_utf8.h"
#include "osp/model/text_stream.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

// The context cut on the left so that `room` tokens are left; counts what went.
std::vector<int64_t> cut_context(const std::vector<int32_t>& context, int64_t room, int64_t& cut) {
  const int64_t length = static_cast<int64_t>(context.size());
  const int64_t kept = std::clamp<int64_t>(room, 1, length);
  cut = std::max(cut, length - kept);
  return {context.end() - kept, context.end()};
}

ChoiceScore score_one(const ParameterStore& store, const std::vector<int32_t>& context,
                      const std::vector<int32_t>& continuation, Tap* tap, int64_t& cut) {
  const int64_t count = static_cast<int64_t>(continuation.size());
  std::vector<int64_t> ids = cut_context(context, store.config.context - count + 1, cut);
  const int64_t begin = static_cast<int64_t>(ids.size()) - 1;
  ids.insert(ids.end(), continuation.begin(), continuation.end() - 1);
  ForwardOptions forward;
  forward.tap = tap;
  const at::Tensor logits = forward_logits(store, at::tensor(ids).unsqueeze(0), forward)[0];
  const at::Tensor log_p = at::log_softmax(logits.narrow(0, begin, count), -1);
  ChoiceScore score{0, true};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t id = continuation[static_cast<size_t>(i)];
    score.log_likelihood += log_p[i][id].item<double>();
    score.greedy = score.greedy && log_p[i].argmax().item<int64_t>() == id;
  }
  return score;
}

}  // namespace

std::vector<ScoredRequest> score_choices(const ParameterStore& store,
                                         std::span<const ChoiceRequest> requests,
                                         const ScoreOptions& options) {
  const at::NoGradGuard no_grad;
  std::vector<ScoredRequest> results;
  for (const ChoiceRequest& request : requests) {
    ScoredRequest& result = results.emplace_back();
    for (const auto& continuation : request.continuations) {
      result.choices.push_back(
          score_one(store, request.context, continuation, options.tap, result.cut));
    }
    if (options.progress) {
      options.progress(static_cast<int64_t>(results.size()), static_cast<int64_t>(requests.size()));
    }
  }
  return results;
}

std::vector<GeneratedText> generate_greedy(const ParameterStore& store, const Tokenizer& tokenizer,
                                           std::span<const GenerationRequest> requests,
                                           const ScoreOptions& options) {
  const at::NoGradGuard no_grad;
  std::vector<GeneratedText> results;
  for (const GenerationRequest& request : requests) {
    GeneratedText& result = results.emplace_back();
    std::vector<int64_t> ids =
        cut_context(request.context, store.config.context - request.max_tokens, result.cut);
    KvCache cache = make_kv_cache(store, 1, static_cast<int64_t>(ids.size()) + request.max_tokens);
    ForwardOptions forward;
    forward.tap = options.tap;
    forward.cache = &cache;
    TextStream stream(
        [&](std::span<const int32_t> part) {
          return tokenizer::replace_invalid_utf8(tokenizer.decode(part, true));
        },
        request.context, request.stop);
    while (static_cast<int64_t>(result.tokens.size()) < request.max_tokens && !stream.stopped()) {
      const at::Tensor logits = forward_logits(store, at::tensor(ids).unsqueeze(0), forward);
      const auto id = static_cast<int32_t>(logits[0][-1].argmax().item<int64_t>());
      if (id == tokenizer.end_of_document()) break;
      result.tokens.push_back(id);
      result.text += stream.add(id);
      ids = {id};
    }
    result.text += stream.finish();
    if (options.progress) {
      options.progress(static_cast<int64_t>(results.size()), static_cast<int64_t>(requests.size()));
    }
  }
  return results;
}

}  // namespace osp
