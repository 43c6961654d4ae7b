#include "osp/train/validation.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/measure/outliers.h"
#include "osp/model/generate.h"
#include "osp/model/transformer.h"
#include "osp/quant/fake_quant.h"
#include "osp/tokenizer/utf8.h"
#include "osp/train/batch_tensors.h"

namespace osp {
namespace {

Json describe(const LargestActivation& largest, const Tokenizer* tokenizer) {
  std::string token = std::to_string(largest.token);
  if (tokenizer != nullptr && largest.token >= 0) {
    const int32_t id = int32_t(largest.token);
    // Part of a character by itself is not UTF-8.
    token = tokenizer::replace_invalid_utf8(tokenizer->decode({&id, 1}));
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

// Adds the first windows of a source's validation split to the slice: `share` of the recipe's
// tokens. Returns how many.
int64_t add_windows(const Recipe& recipe, const TokenDataset& data, const std::string& path,
                    double share, Batch& slice) {
  const int64_t T = recipe.model.context;
  const int64_t windows = int64_t(num_windows(data, T));
  if (windows == 0) {
    fail(ErrorCode::usage,
         "the validation split at {} has {} tokens, too few for one sequence of {}: hold out more, "
         "or set train.validation_tokens = 0",
         path, data.num_tokens(), T);
  }
  const auto wanted = static_cast<double>(recipe.train.validation_tokens / T);
  const int64_t count = std::clamp(int64_t{std::llround(wanted * share)}, int64_t{1}, windows);
  std::vector<int64_t> window(size_t(T + 1));
  int32_t document = 0;
  for (int64_t i = 0; i < count; ++i) {
    data.copy(uint64_t(i * T), window);
    for (int64_t t = 0; t < T; ++t) {
      const bool ends = recipe.data.document_mask && window[t] == data.end_of_document();
      slice.tokens.push_back(window[t]);
      slice.targets.push_back(ends ? kIgnoredTarget : window[t + 1]);
      if (recipe.data.document_mask) slice.documents.push_back(document);
      if (ends) ++document;
    }
  }
  return count;
}

// Sequences [first, first + count) of a slice, without documents where it has none.
Batch part_of(const Batch& slice, const Batch::Part& part, int64_t context) {
  const auto cut = [&](const auto& values) {
    const auto begin = values.begin() + part.first * context;
    return values.empty() ? values
                          : std::decay_t<decltype(values)>(begin, begin + part.count * context);
  };
  return {.tokens = cut(slice.tokens),
          .targets = cut(slice.targets),
          .documents = cut(slice.documents)};
}

}  // namespace

Batch read_validation(const Recipe& recipe, const Mixture& validation) {
  Batch slice;
  for (size_t k = 0; k < validation.sources().size(); ++k) {
    const MixtureSource& source = validation.sources()[k];
    const int64_t first = static_cast<int64_t>(slice.tokens.size()) / recipe.model.context;
    const int64_t count = add_windows(recipe, *source.data, sources_of(recipe.data)[k].path,
                                      validation.share(k), slice);
    if (validation.is_mixed()) slice.parts.push_back({source.name, first, count});
  }
  return slice;
}

double validation_loss(const TrainState& state, const Batch& slice, Tap* tap) {
  const at::NoGradGuard no_grad;
  const BatchTensors all = as_tensors(slice, state.recipe.model.context);
  const int64_t sequences = all.tokens_BT.size(0);
  const at::Device device = state.store.banks[0].master.device();
  double sum = 0;
  for (int64_t first = 0; first < sequences;) {
    const int64_t count = std::min(state.recipe.train.micro_batch_sequences, sequences - first);
    const BatchTensors micro = sequences_of(all, first, count, device);
    ForwardOptions options;
    options.tap = tap;
    options.documents_BT = micro.documents_BT;
    sum += forward_loss_sum(state.store, micro.tokens_BT, micro.targets_BT, options).item<double>();
    first += count;
  }
  return sum / static_cast<double>(std::max<int64_t>(num_scored(slice), 1));
}

Json validate(const TrainState& state, const Batch& slice, const Tokenizer* tokenizer) {
  // Loss and outliers in one pass.
  const BatchTensors all = as_tensors(slice, state.recipe.model.context);
  OutlierOptions options;
  options.targets_BT = all.targets_BT;
  options.documents_BT = all.documents_BT;
  options.attention_length = state.recipe.model.context;
  options.batch_tokens = state.recipe.train.micro_batch_sequences * state.recipe.model.context;
  const OutlierReport report = measure_outliers(state.store, all.tokens_BT, options);
  Json json{{"loss", report.loss},
            {"perplexity", std::exp(report.loss)},
            {"excess_kurtosis",
             {{"mean", report.mean},
              {"clipped_mean", report.clipped_mean},
              {"per_layer", report.per_layer}}},
            {"largest_activation", describe(report.largest, tokenizer)},
            {"largest_attention_logit", report.largest_attention_logit},
            {"gains", gains(state.store)}};

  // The loss of each source of a mixture.
  for (const Batch::Part& part : slice.parts) {
    const Batch sequences = part_of(slice, part, state.recipe.model.context);
    json["sources"][part.name] = {{"loss", validation_loss(state, sequences)},
                                  {"tokens", num_scored(sequences)}};
  }

  // With quantization-aware training, the loss of the quantized model as well.
  const BitWidths bits = parse_bits(state.recipe.qat.bits);
  if (bits != BitWidths{}) {
    FakeQuantTap tap(state.store, bits);
    const double loss = validation_loss(state, slice, &tap);
    json["quantized"] = {{"bits", bits.text()}, {"loss", loss}, {"perplexity", std::exp(loss)}};
  }
  return json;
}

std::string sample_text(const TrainState& state, const Tokenizer& tokenizer) {
  const at::NoGradGuard no_grad;
  GenerateOptions options;
  options.max_tokens = state.recipe.train.sample_tokens;
  return generate(state.store, tokenizer, state.recipe.train.sample_prompt, options).text;
}

}  // namespace osp
