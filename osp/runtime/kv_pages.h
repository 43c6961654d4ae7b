// The cache of keys and values in pages of 128 tokens, for all layers and key/value heads.
//
// A page holds, for each layer and head, the codes of keys as 8 panels of 16 tokens and those of
// values as head_size / 16 panels of 16 channels (code_products.h), so that attention reads them as
// products read weights, and a scale and zero of each token's key and value. Codes of up to 4 bits
// are nibbles, of up to 8 bytes, of 16 two planes of bytes. Pages are shared by sequences that
// begin alike; a page that others hold is copied before it is written.
//
// Tested by engine_test.cpp and osp/serve/prefix_cache_test.cpp.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "osp/runtime/aligned_memory.h"
#include "osp/runtime/engine_kernels.h"

namespace osp {

struct KvShape {
  int64_t layers = 0, heads = 0, head_size = 0;
  int bits = 4;  // 4, 8 or 16

  // Bytes of a head's keys or values, of a layer's and head's part, and of a page.
  int64_t code_bytes() const { return kernels::kPageTokens * head_size * bits / 8; }
  int64_t part_bytes() const { return 2 * code_bytes() + 4 * kernels::kPageTokens * 4; }
  int64_t page_bytes() const { return layers * heads * part_bytes(); }
};

class KvPage {
 public:
  explicit KvPage(const KvShape& shape)
      : shape_(shape), memory_(static_cast<size_t>(shape.page_bytes())) {}

  // Takes over what another page of the same shape holds, or nothing.
  void copy(const KvPage& other);
  void clear();

  kernels::HeadPage part(int64_t layer, int64_t head) const;
  // One token's key or value; `codes` as EngineKernels::cache_codes gives them.
  void put_key(int64_t layer, int64_t head, int64_t slot, const uint8_t* codes, float scale,
               float zero);
  void put_value(int64_t layer, int64_t head, int64_t slot, const uint8_t* codes, float scale,
                 float zero);

 private:
  uint8_t* part_data(int64_t layer, int64_t head) const {
    return const_cast<uint8_t*>(memory_.data()) +
           (layer * shape_.heads + head) * shape_.part_bytes();
  }
  float* scales(int64_t layer, int64_t head) const {
    return reinterpret_cast<float*>(part_data(layer, head) + 2 * shape_.code_bytes());
  }

  KvShape shape_;
  AlignedMemory memory_;
};

// Pages that no sequence holds any more are kept for the next one: the system clears fresh memory,
// which costs more than a pass over a short prompt.
class KvPagePool : public std::enable_shared_from_this<KvPagePool> {
 public:
  explicit KvPagePool(const KvShape& shape) : shape_(shape) {}

  const KvShape& shape() const { return shape_; }
  // An empty page, or a copy.
  std::shared_ptr<KvPage> take(const KvPage* original = nullptr);
  // Pages that sequences hold.
  int64_t in_use() const { return in_use_; }

 private:
  KvShape shape_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<KvPage>> free_;
  std::atomic<int64_t> in_use_ = 0;
};

// A sequence of tokens and its pages.
class KvSequence {
 public:
  explicit KvSequence(std::shared_ptr<KvPagePool> pool) : pool_(std::move(pool)) {}

  int64_t length() const { return length_; }
  // Makes pages for the next `tokens` tokens and copies a shared last one.
  void reserve(int64_t tokens);
  void advance(int64_t tokens) { length_ += tokens; }
  // Forgets all but the first `tokens` tokens.
  void truncate(int64_t tokens);
  KvPage& page_of(int64_t position) {
    return *pages_[static_cast<size_t>(position / kernels::kPageTokens)];
  }
  const std::vector<std::shared_ptr<KvPage>>& pages() const { return pages_; }
  // Begins with whole pages of another sequence; only on an empty one.
  void adopt(std::vector<std::shared_ptr<KvPage>> pages, int64_t tokens);

 private:
  std::shared_ptr<KvPagePool> pool_;
  std::vector<std::shared_ptr<KvPage>> pages_;
  int64_t length_ = 0;
};

// New tokens of a sequence in a pass.
struct EngineRun {
  KvSequence* sequence = nullptr;
  std::span<const int32_t> tokens = {};
};

}  // namespace osp
