#include "osp/runtime/integer_forward.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "osp/base/error.h"
#include "osp/model/generate.h"
#include "osp/model/transformer.h"

namespace osp {
namespace {

// Tokens of windows that are in work at a time: bounds the memory of their caches.
constexpr int64_t kTokensAtOnce = 8192;

std::vector<int32_t> ids_of(const at::Tensor& tokens) {
  const at::Tensor flat = tokens.to(at::kLong).contiguous().flatten();
  const int64_t* ids = flat.const_data_ptr<int64_t>();
  return {ids, ids + flat.numel()};
}

// Reads one text.
class IntegerReader : public NextToken {
 public:
  explicit IntegerReader(Engine& engine)
      : engine_(engine),
        sequence_(engine.new_sequence()),
        logits_(static_cast<size_t>(engine.config().vocabulary)) {}

  void clear() override { sequence_ = engine_.new_sequence(); }
  std::span<const float> read(std::span<const int32_t> ids) override {
    const EngineRun run{&sequence_, ids};
    const auto states = engine_.read({&run, 1});
    const auto last = states.last(static_cast<size_t>(engine_.config().width));
    state_.assign(last.begin(), last.end());
    engine_.logits(state_, logits_);
    return logits_;
  }
  int32_t greedy(int64_t count) override { return engine_.head().greedy(state_, logits_, count); }
  int64_t length() const override { return sequence_.length(); }
  int64_t most_tokens() const override { return engine_.config().context; }

 private:
  Engine& engine_;
  KvSequence sequence_;
  std::vector<float> state_, logits_;
};

}  // namespace

at::Tensor IntegerForward::hidden(const at::Tensor& tokens_BT, const ForwardOptions& options) {
  OSP_CHECK(!options.training && !options.documents_BT.defined(),
            "the integer engine has no gradients and no documents");
  if (!options.segments.empty()) return packed(tokens_BT, options);
  OSP_CHECK(options.cache == nullptr, "texts with a cache have segments here");
  return windows(tokens_BT);
}

// All windows from position 0.
at::Tensor IntegerForward::windows(const at::Tensor& tokens_BT) {
  const int64_t B = tokens_BT.size(0), T = tokens_BT.size(1), D = engine_->config().width;
  const std::vector<int32_t> ids = ids_of(tokens_BT);
  at::Tensor out = at::empty({B, T, D}, at::kFloat);
  const int64_t batch = std::max<int64_t>(1, kTokensAtOnce / T);
  for (int64_t first = 0; first < B; first += batch) {
    const int64_t count = std::min(batch, B - first);
    std::vector<KvSequence> sequences(static_cast<size_t>(count), engine_->new_sequence());
    std::vector<EngineRun> runs;
    for (int64_t b = 0; b < count; ++b) {
      runs.push_back(
          {&sequences[static_cast<size_t>(b)],
           std::span(ids).subspan(static_cast<size_t>((first + b) * T), static_cast<size_t>(T))});
    }
    const auto states = engine_->read(runs);
    std::copy(states.begin(), states.end(), out.mutable_data_ptr<float>() + first * T * D);
  }
  return out;
}

at::Tensor IntegerForward::packed(const at::Tensor& tokens_1N, const ForwardOptions& options) {
  // Forget the texts of another cache.
  if (options.cache == nullptr || options.cache != cache_) texts_.clear();
  cache_ = options.cache;
  const int64_t D = engine_->config().width;
  const std::vector<int32_t> ids = ids_of(tokens_1N);
  at::Tensor out = at::empty({1, tokens_1N.size(1), D}, at::kFloat);
  // Segments whose contexts are read, together; then those that continue them.
  std::vector<int64_t> first_row;
  int64_t rows = 0;
  for (const Segment& segment : options.segments) {
    first_row.push_back(rows);
    rows += segment.length;
  }
  std::vector<bool> done(options.segments.size());
  for (size_t left = done.size(); left > 0;) {
    std::vector<EngineRun> runs;
    std::vector<size_t> taken;
    for (size_t i = 0; i < done.size(); ++i) {
      // Pass over segments that are read, or whose context is not.
      if (done[i]) continue;
      const Segment& segment = options.segments[i];
      const auto waits = [&](const KeyRange& range) {
        return std::any_of(done.begin(), done.begin() + static_cast<std::ptrdiff_t>(i),
                           [&, j = size_t{0}](bool finished) mutable {
                             const Segment& other = options.segments[j++];
                             return !finished && other.slot < range.begin + range.length &&
                                    other.slot + other.length > range.begin;
                           });
      };
      if (std::any_of(segment.context.begin(), segment.context.end(), waits)) continue;
      // The text that it continues: its own (the slots follow each other) or another's pages.
      int64_t slot = segment.slot;
      if (!segment.context.empty()) {
        const KeyRange& last = segment.context.back();
        const auto parent = texts_.find(last.begin);
        OSP_CHECK(parent != texts_.end(), "no text at slot {}", last.begin);
        if (last.begin + last.length == segment.slot && options.cache != nullptr) {
          slot = last.begin;
        } else {
          KvSequence fork = parent->second;
          fork.truncate(segment.position());
          texts_.insert_or_assign(slot, std::move(fork));
        }
      } else {
        texts_.insert_or_assign(slot, engine_->new_sequence());
      }
      // Append the tokens of the segment to its text.
      KvSequence& text = texts_.at(slot);
      OSP_CHECK(text.length() == segment.position(), "a text of {} tokens at position {}",
                text.length(), segment.position());
      runs.push_back({&text, std::span(ids).subspan(static_cast<size_t>(first_row[i]),
                                                    static_cast<size_t>(segment.length))});
      taken.push_back(i);
    }
    OSP_CHECK(!taken.empty(), "segments wait for each other");
    // Read all of these at once, and put their states where the segments are.
    const auto states = engine_->read(runs);
    int64_t at = 0;
    for (const size_t i : taken) {
      const int64_t count = options.segments[i].length * D;
      std::copy(states.begin() + at, states.begin() + at + count,
                out.mutable_data_ptr<float>() + first_row[i] * D);
      at += count;
      done[i] = true;
    }
    left -= taken.size();
  }
  return out;
}

at::Tensor IntegerForward::logits(const at::Tensor& hidden) {
  const at::Tensor states = hidden.to(at::kFloat).contiguous();
  std::vector<int64_t> shape = states.sizes().vec();
  shape.back() = engine_->config().vocabulary;
  at::Tensor out = at::empty(shape, at::kFloat);
  engine_->logits({states.const_data_ptr<float>(), static_cast<size_t>(states.numel())},
                  {out.mutable_data_ptr<float>(), static_cast<size_t>(out.numel())});
  return out;
}

std::unique_ptr<NextToken> IntegerForward::reader(int64_t tokens) {
  const int64_t held = std::min(tokens, engine_->config().context);
  const int64_t pages = (held + kernels::kPageTokens - 1) / kernels::kPageTokens;
  require_cache_memory(static_cast<double>(pages * engine_->kv_shape().page_bytes()), held);
  return std::make_unique<IntegerReader>(*engine_);
}

}  // namespace osp
