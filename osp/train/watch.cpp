#include "osp/train/watch.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "osp/base/error.h"
#include "osp/measure/outlier_tap.h"
#include "osp/model/generate.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

// Sequences whose attention logits are looked at: they need reference attention, [H, T, T] a layer.
constexpr int64_t kLogitSequences = 2;
constexpr int64_t kSingleTokensAtOnce = 2048;

template <class T>
at::Tensor rows(const std::vector<T>& values, int64_t first, int64_t count, int64_t context,
                at::ScalarType type, at::Device device) {
  void* data = const_cast<T*>(values.data() + first * context);  // only read
  return at::from_blob(data, {count, context}, at::TensorOptions().dtype(type)).to(device);
}

// Calls `visit(tokens_BT, targets_BT, options, first sequence)` for the slice in micro-batches.
template <class Visit>
void for_each_batch(const TrainState& state, const Batch& slice, int64_t most_sequences,
                    const Visit& visit) {
  const at::NoGradGuard no_grad;
  const int64_t T = state.recipe.model.context;
  const int64_t sequences = std::min(int64_t(slice.tokens.size()) / T, most_sequences);
  const at::Device device = state.store.banks[0].master.device();
  for (int64_t first = 0; first < sequences;) {
    const int64_t count = std::min(state.recipe.train.micro_batch_sequences, sequences - first);
    ForwardOptions options;
    if (state.recipe.data.document_mask) {
      options.documents_BT = rows(slice.documents, first, count, T, at::kInt, device);
    }
    visit(rows(slice.tokens, first, count, T, at::kLong, device),
          rows(slice.targets, first, count, T, at::kLong, device), options, first);
    first += count;
  }
}

double mean_loss(const TrainState& state, const Batch& slice, OutlierTap* tap) {
  double sum = 0;
  for_each_batch(state, slice, INT64_MAX,
                 [&](const at::Tensor& tokens, const at::Tensor& targets, ForwardOptions options,
                     int64_t first) {
                   if (tap != nullptr) tap->begin(tokens, first);
                   options.tap = tap;
                   sum += forward_loss_sum(state.store, tokens, targets, options).item<double>();
                 });
  const auto scored =
      std::count_if(slice.targets.begin(), slice.targets.end(), [](int64_t t) { return t >= 0; });
  return sum / double(std::max<int64_t>(scored, 1));
}

double largest_attention_logit(const TrainState& state, const Batch& slice) {
  AttentionLogitTap tap;
  for_each_batch(state, slice, kLogitSequences,
                 [&](const at::Tensor& tokens, const at::Tensor&, ForwardOptions options, int64_t) {
                   options.tap = &tap;
                   forward_hidden(state.store, tokens, options);
                 });
  return tap.largest();
}

double mean_over_states(const std::vector<KurtosisMean>& kurtosis) {
  double sum = 0;
  for (const KurtosisMean& state : kurtosis) sum += state.mean();
  return sum / double(kurtosis.size());
}

// The reference's mode wants every token of the slice as a sequence of its own: each id once,
// weighted by how often it occurs.
double clipped_kurtosis_mean(const TrainState& state, const Batch& slice) {
  const at::NoGradGuard no_grad;
  std::map<int64_t, double> occurrences;
  for (const int64_t token : slice.tokens) occurrences[token] += 1;
  std::vector<int64_t> ids;
  std::vector<double> weights;
  for (const auto& [id, times] : occurrences) {
    ids.push_back(id);
    weights.push_back(times);
  }
  ClippedKurtosisTap tap(state.recipe.model.layers);
  ForwardOptions options;
  options.tap = &tap;
  for (size_t first = 0; first < ids.size(); first += size_t(kSingleTokensAtOnce)) {
    const size_t last = std::min(ids.size(), first + size_t(kSingleTokensAtOnce));
    tap.begin({weights.begin() + int64_t(first), weights.begin() + int64_t(last)});
    const at::Tensor tokens = rows(ids, int64_t(first), int64_t(last - first), 1, at::kLong,
                                   state.store.banks[0].master.device());
    forward_hidden(state.store, tokens, options);
  }
  return mean_over_states(tap.kurtosis());
}

Json describe(const LargestActivation& largest, const Tokenizer* tokenizer) {
  std::string token = std::to_string(largest.token);
  if (tokenizer != nullptr && largest.token >= 0) {
    const int32_t id = int32_t(largest.token);
    token = tokenizer->decode({&id, 1});
  }
  return {{"value", largest.value},
          {"layer", largest.layer},
          {"position", largest.position},
          {"channel", largest.channel},
          {"token", token}};
}

// Every norm's gain: the scalar of SSNorm, the mean of RMSNorm's weights.
Json gains(const ParameterStore& store) {
  Json values = Json::object();
  for (size_t i = 0; i < store.specs.size(); ++i) {
    if (store.specs[i].kind != ParameterKind::gain) continue;
    values[store.specs[i].name] = store.master(int64_t(i)).mean().item<double>();
  }
  return values;
}

}  // namespace

Batch read_validation(const Recipe& recipe, const TokenDataset& validation) {
  const int64_t T = recipe.model.context;
  const int64_t windows = int64_t(num_windows(validation, T));
  if (windows == 0) {
    fail(ErrorCode::usage,
         "the validation split at {} has {} tokens, too few for one sequence of {}: hold out more, "
         "or set train.validation_tokens = 0",
         recipe.data.path, validation.num_tokens(), T);
  }
  const int64_t count = std::clamp(recipe.train.validation_tokens / T, int64_t{1}, windows);
  Batch slice;
  std::vector<int64_t> window(size_t(T + 1));
  int32_t document = 0;
  for (int64_t i = 0; i < count; ++i) {
    validation.copy(uint64_t(i * T), window);
    for (int64_t t = 0; t < T; ++t) {
      const bool ends =
          recipe.data.document_mask && window[size_t(t)] == validation.end_of_document();
      slice.tokens.push_back(window[size_t(t)]);
      slice.targets.push_back(ends ? kIgnoredTarget : window[size_t(t + 1)]);
      if (recipe.data.document_mask) slice.documents.push_back(document);
      if (ends) ++document;
    }
  }
  return slice;
}

double validation_loss(const TrainState& state, const Batch& slice) {
  return mean_loss(state, slice, nullptr);
}

Json validate(const TrainState& state, const Batch& slice, const Tokenizer* tokenizer) {
  OutlierTap tap(state.recipe.model.layers);
  const double loss = mean_loss(state, slice, &tap);
  std::vector<double> per_layer;
  for (const KurtosisMean& mean : tap.kurtosis()) per_layer.push_back(mean.mean());
  return {{"loss", loss},
          {"perplexity", std::exp(loss)},
          {"excess_kurtosis",
           {{"mean", mean_over_states(tap.kurtosis())},
            {"clipped_mean", clipped_kurtosis_mean(state, slice)},
            {"per_layer", per_layer}}},
          {"largest_activation", describe(tap.largest(), tokenizer)},
          {"largest_attention_logit", largest_attention_logit(state, slice)},
          {"gains", gains(state.store)}};
}

std::string sample_text(const TrainState& state, const Tokenizer& tokenizer) {
  const at::NoGradGuard no_grad;
  GenerateOptions options;
  options.max_tokens = state.recipe.train.sample_tokens;
  return generate(state.store, tokenizer, state.recipe.train.sample_prompt, options).text;
}

}  // namespace osp
