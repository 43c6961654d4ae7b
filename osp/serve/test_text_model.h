// A model without weights for tests of what continues texts: the next token depends on all tokens
// before it, which it keeps in the pages of the cache as the engine keeps keys and values.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "osp/base/error.h"
#include "osp/serve/text_model.h"

namespace osp {

class TestTextModel : public TextModel {
 public:
  static constexpr int64_t kVocabulary = 64;
  static constexpr int32_t kBroken = 13;  // a pass with this token fails

  int64_t width() const override { return 2; }
  int64_t vocabulary() const override { return kVocabulary; }
  KvSequence new_sequence() const override { return KvSequence(pages_); }
  int64_t pages_in_use() const override { return pages_->in_use(); }

  std::span<const float> read(std::span<const EngineRun> runs) override {
    ++passes_;
    for (const EngineRun& run : runs) {
      if (std::ranges::find(run.tokens, kBroken) != run.tokens.end()) {
        fail(ErrorCode::damaged, "token {} breaks this model", kBroken);
      }
    }
    states_.clear();
    for (const EngineRun& run : runs) {
      run.sequence->reserve(static_cast<int64_t>(run.tokens.size()));
      int64_t position = run.sequence->length();
      for (const int32_t token : run.tokens) append_state(*run.sequence, position++, token);
      run.sequence->advance(static_cast<int64_t>(run.tokens.size()));
    }
    return states_;
  }

  // Logits in [0, 1) from the two halves of a state.
  void logits(std::span<const float> states, std::span<float> out) override {
    for (size_t row = 0; row < states.size() / 2; ++row) {
      for (uint64_t v = 0; v < kVocabulary; ++v) {
        const auto low = static_cast<uint64_t>(states[2 * row]);
        const auto high = static_cast<uint64_t>(states[2 * row + 1]);
        out[row * kVocabulary + v] =
            static_cast<float>(mixed((high << 24 | low) + v) & kDigits) / float{kDigits + 1};
      }
    }
  }
  int32_t greedy(std::span<const float>, std::span<const float> logits, int64_t count) override {
    const auto some = logits.first(static_cast<size_t>(count));
    return static_cast<int32_t>(std::ranges::max_element(some) - some.begin());
  }

  int64_t passes() const { return passes_; }

 private:
  static constexpr uint64_t kDigits = (1 << 24) - 1;  // whole numbers that fp32 holds

  static uint64_t mixed(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
  }
  // A number of all tokens up to this one, which is put into the page of its position.
  void append_state(KvSequence& sequence, int64_t position, int32_t token) {
    const uint8_t codes[32] = {};
    const int64_t slot = position % kernels::kPageTokens;
    sequence.page_of(position).put_key(0, 0, slot, codes, static_cast<float>(token), 0);
    uint64_t all = 1;
    for (int64_t p = 0; p <= position; ++p) {
      const float* kept = sequence.page_of(p).part(0, 0).key_scale;
      all = mixed(all * 3 + static_cast<uint64_t>(kept[p % kernels::kPageTokens]));
    }
    states_.push_back(static_cast<float>(all & kDigits));
    states_.push_back(static_cast<float>(all >> 24 & kDigits));
  }

  std::shared_ptr<KvPagePool> pages_ =
      std::make_shared<KvPagePool>(KvShape{.layers = 1, .heads = 1, .head_size = 32});
  std::vector<float> states_;
  std::atomic<int64_t> passes_ = 0;
};

}  // namespace osp
