#include "osp/model/generate.h"

#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <chrono>
#include <span>

#include "osp/base/error.h"
#include "osp/base/memory.h"
#include "osp/base/philox.h"
#include "osp/base/timing.h"
#include "osp/model/forward_engine.h"
#include "osp/model/text_stream.h"
#include "osp/model/transformer.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

// Prompt tokens that pass through the model at a time: bounds the memory of their logits.
constexpr size_t kPrefillTokens = 256;

// A model of operators with the cache of what it has read.
class StoreReader : public NextToken {
 public:
  // For at most `tokens` tokens: a long context costs memory only where it is used.
  StoreReader(const ParameterStore& store, int64_t tokens, Tap* tap)
      : store_(store), tap_(tap), capacity_(std::min(tokens, store.config.context)) {
    const ModelConfig& config = store.config;
    const auto numbers = 2.0 * static_cast<double>(config.layers * config.kv_heads) *
                         static_cast<double>(config.head_size * capacity_);
    require_cache_memory(numbers * static_cast<double>(store.banks[0].compute.element_size()),
                         capacity_);
    StoreReader::clear();
  }

  std::span<const float> read(std::span<const int32_t> ids) override {
    const c10::NoGradGuard no_graph;
    ForwardOptions options;
    options.cache = &cache_;
    options.tap = tap_;
    for (size_t begin = 0, count = first_piece(ids.size()); begin < ids.size();
         begin += count, count = kPrefillTokens) {
      const auto part = ids.subspan(begin, std::min(count, ids.size() - begin));
      const std::vector<int64_t> wide(part.begin(), part.end());
      const at::Tensor tokens_BT =
          at::tensor(wide).unsqueeze(0).to(store_.banks.front().master.device());
      if (part.size() > kPrefillTokens) {  // the logits of all would take much memory
        const at::Tensor last = forward_hidden(store_, tokens_BT, options).select(1, -1);
        logits_ = logits_of_hidden(store_, last, tap_).squeeze(0);
      } else {
        logits_ = forward_logits(store_, tokens_BT, options).select(1, -1).squeeze(0);
      }
    }
    logits_ = logits_.contiguous().cpu();
    return {logits_.const_data_ptr<float>(), static_cast<size_t>(logits_.numel())};
  }
  int32_t greedy(int64_t count) override {
    const float* logits = logits_.const_data_ptr<float>();
    return sample_token({logits, static_cast<size_t>(count)}, {}, 0.0);
  }
  void clear() override { cache_ = make_kv_cache(store_, 1, capacity_); }
  int64_t length() const override { return cache_.length; }

 private:
  // Tokens of the first pass: longrope chooses its factors by the length of the text that it sees.
  size_t first_piece(size_t all) const {
    const RopeScaling& rope = store_.config.rope_scaling;
    const bool beyond = rope.type == "longrope" && cache_.length == 0 &&
                        static_cast<int64_t>(all) > rope.original_context;
    return beyond ? static_cast<size_t>(rope.original_context + 1) : kPrefillTokens;
  }

  const ParameterStore& store_;
  Tap* tap_;
  int64_t capacity_;
  KvCache cache_;
  at::Tensor logits_;
};

std::vector<int32_t> prompt_ids(const ModelConfig& config, const Tokenizer& tokenizer,
                                const std::string& prompt, bool rendered) {
  const std::vector<int32_t> ids =
      rendered ? tokenizer.encode(prompt) : tokenizer.encode_prompt(prompt);
  if (ids.empty()) {
    fail(ErrorCode::usage,
         "the prompt is empty and the tokenizer has no end-of-document token to begin with: give a "
         "prompt");
  }
  for (const int32_t id : ids) {
    if (id >= config.vocabulary) {
      fail(ErrorCode::damaged,
           "the tokenizer gives id {}, but the model's vocabulary is {}: tokenizer.json belongs to "
           "another model",
           id, config.vocabulary);
    }
  }
  return ids;
}

}  // namespace

void require_cache_memory(double bytes, int64_t tokens) {
  require_memory(bytes, fmt::format("the cache of keys and values of {} tokens", tokens),
                 "give a shorter prompt or fewer tokens to write (--max-tokens)");
}

std::unique_ptr<NextToken> make_reader(const ParameterStore& store, int64_t tokens, Tap* tap) {
  if (tap != nullptr && tap->engine() != nullptr) return tap->engine()->reader(tokens);
  return std::make_unique<StoreReader>(store, tokens, tap);
}

Generation generate(const ParameterStore& store, const Tokenizer& tokenizer,
                    const std::string& prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& on_text) {
  const auto prompt_tokens =
      static_cast<int64_t>(prompt_ids(store.config, tokenizer, prompt, options.rendered).size());
  const auto reader = make_reader(store, prompt_tokens + options.max_tokens, options.tap);
  return generate(*reader, store.config, tokenizer, prompt, options, on_text);
}

Generation generate(NextToken& model, const ModelConfig& config, const Tokenizer& tokenizer,
                    const std::string& prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& on_text) {
  check_sampling(options.sampling);
  // The prompt, and where the text goes and ends.
  const auto start = std::chrono::steady_clock::now();
  Generation result;
  result.prompt_tokens = prompt_ids(config, tokenizer, prompt, options.rendered);
  result.finish = "length";
  TextStream stream(
      [&](std::span<const int32_t> ids) {
        return osp::tokenizer::replace_invalid_utf8(tokenizer.decode(ids, true));
      },
      result.prompt_tokens, options.stop);
  const auto pass_on = [&](const std::string& piece) {
    result.text += piece;
    if (on_text && !piece.empty()) on_text(piece);
  };
  const auto ends = [&](int32_t id) {
    return id == tokenizer.end_of_document() ||
           std::find(options.end_tokens.begin(), options.end_tokens.end(), id) !=
               options.end_tokens.end();
  };

  const RandomStream random(options.seed, "generate");
  TokenPenalties penalties(options.penalties, result.prompt_tokens);
  std::vector<float> penalized;
  // Rows of the head beyond the tokenizer's ids (padding) stand for nothing and are never drawn.
  const int64_t drawable = std::min(config.vocabulary, tokenizer.vocabulary());
  model.clear();
  std::vector<int32_t> all = result.prompt_tokens;
  size_t unread = 0;  // first token that the model has not read
  const int64_t context = std::min(config.context, model.most_tokens());
  result.context = context;
  for (int64_t i = 0; i < options.max_tokens; ++i) {
    // Begin anew with half of a full context.
    if (static_cast<int64_t>(all.size() - unread) > context - model.length()) {
      const size_t keep = static_cast<size_t>(std::max<int64_t>(1, context / 2));
      unread = all.size() - keep;
      result.dropped = static_cast<int64_t>(unread);
      model.clear();
    }
    // Read all again where a text becomes long for longrope, which then turns every key by other
    // factors, as in transformers without a cache (and with one in its Phi-3).
    const int64_t held = model.length();
    if (held > 0 && config.rope_scaling.type == "longrope" &&
        !beyond_original(config.rope_scaling, held) &&
        beyond_original(config.rope_scaling, held + static_cast<int64_t>(all.size() - unread))) {
      unread -= static_cast<size_t>(held);
      model.clear();
    }
    // Read what is unread and draw the next token.
    const std::span<const float> logits = model.read(std::span(all).subspan(unread));
    unread = all.size();
    std::span<const float> drawn_from = logits.first(static_cast<size_t>(drawable));
    if (penalties.any()) {
      penalized.assign(drawn_from.begin(), drawn_from.end());
      penalties.apply(penalized);
      drawn_from = penalized;
    }
    const bool greedy = options.sampling.temperature == 0 && !penalties.any();
    const int32_t id = greedy ? model.greedy(drawable)
                              : sample_token(drawn_from, options.sampling,
                                             random.uniform(static_cast<uint64_t>(i)));
    if (i == 0) result.prompt_seconds = seconds_since(start);
    // Hand it on, unless it ends the text.
    if (ends(id)) {
      result.finish = "end";
      break;
    }
    all.push_back(id);
    penalties.written(id);
    result.tokens.push_back(id);
    pass_on(stream.add(id));
    if (stream.stopped()) break;
  }
  pass_on(stream.finish());
  if (stream.stopped()) result.finish = "stop";
  result.seconds = seconds_since(start);
  return result;
}

}  // namespace osp
