// Pages of texts that were read before, for texts that begin alike.
//
// Whole pages of 128 tokens are found by a chain of hashes: SHA-256 of the page before and of the
// ids of this one. The bits of a page depend on the tokens up to its end alone (engine.h), so that
// a text that adopts pages is continued exactly as if it had been read.
//
// Tested by prefix_cache_test.cpp and tests/python/test_serve.py.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "osp/runtime/kv_pages.h"

namespace osp {

class PrefixCache {
 public:
  using Pages = std::vector<std::shared_ptr<KvPage>>;

  // The hashes of the whole pages of `ids`; appends those that `chain` lacks.
  static void extend_chain(std::span<const int32_t> ids, std::vector<std::string>& chain);

  // The pages of the longest known beginning of the chain, at most `most`.
  Pages find(std::span<const std::string> chain, size_t most);
  // Keeps the first pages of a sequence, one for each element of the chain.
  void keep(std::span<const std::string> chain, const Pages& pages);

  // Pages that nothing but this cache holds.
  int64_t idle_pages() const;
  // Lets the `count` of them go that have not been used for longest.
  void release(int64_t count);

 private:
  struct Entry {
    std::shared_ptr<KvPage> page;
    uint64_t used = 0;
  };
  std::unordered_map<std::string, Entry> entries_;
  uint64_t clock_ = 0;
};

}  // namespace osp
