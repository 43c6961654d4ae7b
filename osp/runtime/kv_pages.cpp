#include "osp/runtime/kv_pages.h"

#include <cstring>

#include "osp/base/error.h"

namespace osp {

using kernels::kLineBytes;
using kernels::kPageTokens;
using kernels::kPanelOutputs;

void KvPage::copy(const KvPage& other) {
  std::memcpy(memory_.data(), other.memory_.data(), memory_.bytes());
}

void KvPage::clear() { std::memset(memory_.data(), 0, memory_.bytes()); }

std::shared_ptr<KvPage> KvPagePool::take(const KvPage* original) {
  std::unique_ptr<KvPage> page;
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      page = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (page == nullptr) {
    page = std::make_unique<KvPage>(shape_);
  } else if (original == nullptr) {
    page->clear();
  }
  if (original != nullptr) page->copy(*original);
  ++in_use_;
  return {page.release(), [pool = shared_from_this()](KvPage* used) {
            --pool->in_use_;
            const std::lock_guard lock(pool->mutex_);
            pool->free_.emplace_back(used);
          }};
}

kernels::HeadPage KvPage::part(int64_t layer, int64_t head) const {
  const uint8_t* codes = part_data(layer, head);
  const float* numbers = scales(layer, head);
  return {.keys = codes,
          .values = codes + shape_.code_bytes(),
          .key_scale = numbers,
          .key_zero = numbers + kPageTokens,
          .value_scale = numbers + 2 * kPageTokens,
          .value_zero = numbers + 3 * kPageTokens};
}

void KvPage::put_key(int64_t layer, int64_t head, int64_t slot, const uint8_t* codes, float scale,
                     float zero) {
  const int64_t lines = shape_.head_size / kernels::line_columns(shape_.bits);
  uint8_t* to =
      part_data(layer, head) + slot / kPanelOutputs * lines * kLineBytes + slot % kPanelOutputs * 4;
  if (shape_.bits == 4) {
    for (int64_t i = 0; i < lines; ++i, to += kLineBytes) {
      for (int64_t j = 0; j < 4; ++j) {
        to[j] = static_cast<uint8_t>(codes[8 * i + j] | codes[8 * i + 4 + j] << 4);
      }
    }
  } else {
    for (int64_t plane = 0; plane < kernels::cache_planes(shape_.bits); ++plane) {
      for (int64_t i = 0; i < lines; ++i, codes += 4) {
        std::memcpy(to + plane * kPageTokens * shape_.head_size + i * kLineBytes, codes, 4);
      }
    }
  }
  scales(layer, head)[slot] = scale;
  scales(layer, head)[kPageTokens + slot] = zero;
}

void KvPage::put_value(int64_t layer, int64_t head, int64_t slot, const uint8_t* codes, float scale,
                       float zero) {
  const int64_t columns = kernels::line_columns(shape_.bits);
  // Byte `slot % 4` of four in the token's line of each panel, or a half of it.
  uint8_t* line =
      part_data(layer, head) + shape_.code_bytes() + slot / columns * kLineBytes + slot % 4;
  const int shift = slot % columns < 4 ? 0 : 4;
  const auto kept = static_cast<uint8_t>(columns == 8 ? 0xf0 >> shift : 0);
  for (int64_t c = 0; c < kernels::cache_planes(shape_.bits) * shape_.head_size;
       c += kPanelOutputs) {
    for (int64_t o = 0; o < kPanelOutputs; ++o) {
      uint8_t& byte = line[4 * o];
      byte = static_cast<uint8_t>((byte & kept) | codes[c + o] << shift);
    }
    line += kPageTokens / columns * kLineBytes;
  }
  scales(layer, head)[2 * kPageTokens + slot] = scale;
  scales(layer, head)[3 * kPageTokens + slot] = zero;
}

void KvSequence::reserve(int64_t tokens) {
  if (length_ % kPageTokens != 0 && tokens > 0) {
    std::shared_ptr<KvPage>& last = pages_[static_cast<size_t>(length_ / kPageTokens)];
    if (last.use_count() > 1) last = pool_->take(last.get());
  }
  while (static_cast<int64_t>(pages_.size()) * kPageTokens < length_ + tokens) {
    pages_.push_back(pool_->take());
  }
}

void KvSequence::truncate(int64_t tokens) {
  OSP_CHECK(tokens <= length_, "{} of {} tokens", tokens, length_);
  length_ = tokens;
  pages_.resize(static_cast<size_t>((tokens + kPageTokens - 1) / kPageTokens));
}

void KvSequence::adopt(std::vector<std::shared_ptr<KvPage>> pages, int64_t tokens) {
  OSP_CHECK(length_ == 0 && tokens <= static_cast<int64_t>(pages.size()) * kPageTokens,
            "{} pages for {} tokens", pages.size(), tokens);
  pages_ = std::move(pages);
  length_ = tokens;
}

}  // namespace osp
