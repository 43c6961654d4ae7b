#include "osp/train/watch.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"
#include "osp/measure/outliers.h"
#include "osp/model/generate.h"
#include "osp/model/transformer.h"
#include "osp/quant/fake_quant.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

template <class T>
at::Tensor rows(const std::vector<T>& values, int64_t first, int64_t count, int64_t context,
                at::ScalarType type) {
  void* data = const_cast<T*>(values.data() + first * context);  // only read
  return at::from_blob(data, {count, context}, at::TensorOptions().dtype(type));
}

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

double validation_loss(const TrainState& state, const Batch& slice, Tap* tap) {
  const at::NoGradGuard no_grad;
  const int64_t T = state.recipe.model.context;
  const int64_t sequences = int64_t(slice.tokens.size()) / T;
  const at::Device device = state.store.banks[0].master.device();
  double sum = 0;
  for (int64_t first = 0; first < sequences;) {
    const int64_t count = std::min(state.recipe.train.micro_batch_sequences, sequences - first);
    ForwardOptions options;
    options.tap = tap;
    if (state.recipe.data.document_mask) {
      options.documents_BT = rows(slice.documents, first, count, T, at::kInt).to(device);
    }
    sum += forward_loss_sum(state.store, rows(slice.tokens, first, count, T, at::kLong).to(device),
                            rows(slice.targets, first, count, T, at::kLong).to(device), options)
               .item<double>();
    first += count;
  }
  const auto scored =
      std::count_if(slice.targets.begin(), slice.targets.end(), [](int64_t t) { return t >= 0; });
  return sum / double(std::max<int64_t>(scored, 1));
}

Json validate(const TrainState& state, const Batch& slice, const Tokenizer* tokenizer) {
  const int64_t T = state.recipe.model.context;
  const int64_t sequences = int64_t(slice.tokens.size()) / T;
  OutlierOptions options;
  options.targets_BT = rows(slice.targets, 0, sequences, T, at::kLong);
  if (state.recipe.data.document_mask) {
    options.documents_BT = rows(slice.documents, 0, sequences, T, at::kInt);
  }
  options.attention_length = T;
  options.batch_tokens = state.recipe.train.micro_batch_sequences * T;
  const OutlierReport report =
      measure_outliers(state.store, rows(slice.tokens, 0, sequences, T, at::kLong), options);
  Json json{{"loss", report.loss},
            {"perplexity", std::exp(report.loss)},
            {"excess_kurtosis",
             {{"mean", report.mean},
              {"clipped_mean", report.clipped_mean},
              {"per_layer", report.per_layer}}},
            {"largest_activation", describe(report.largest, tokenizer)},
            {"largest_attention_logit", report.largest_attention_logit},
            {"gains", gains(state.store)}};
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
