#include "osp/serve/prefix_cache.h"

#include <algorithm>

#include "osp/base/sha256.h"

namespace osp {

using kernels::kPageTokens;

void PrefixCache::extend_chain(std::span<const int32_t> ids, std::vector<std::string>& chain) {
  constexpr auto kTokens = static_cast<size_t>(kPageTokens);
  while ((chain.size() + 1) * kTokens <= ids.size()) {
    Sha256 hash;
    if (!chain.empty()) hash.update(chain.back().data(), chain.back().size());
    hash.update(ids.data() + chain.size() * kTokens, kTokens * sizeof(int32_t));
    chain.push_back(hash.hex());
  }
}

PrefixCache::Pages PrefixCache::find(std::span<const std::string> chain, size_t most) {
  Pages pages;
  while (pages.size() < std::min(most, chain.size())) {
    const auto entry = entries_.find(chain[pages.size()]);
    if (entry == entries_.end()) break;
    pages.push_back(entry->second.page);
  }
  // The first page is the newest: no page goes before those that need it.
  for (size_t i = pages.size(); i-- > 0;) entries_.at(chain[i]).used = ++clock_;
  return pages;
}

void PrefixCache::keep(std::span<const std::string> chain, const Pages& pages) {
  for (size_t i = chain.size(); i-- > 0;) {
    Entry& entry = entries_[chain[i]];
    if (entry.page == nullptr) entry.page = pages[i];
    entry.used = ++clock_;
  }
}

int64_t PrefixCache::idle_pages() const {
  return std::count_if(entries_.begin(), entries_.end(),
                       [](const auto& entry) { return entry.second.page.use_count() == 1; });
}

void PrefixCache::release(int64_t count) {
  std::vector<std::pair<uint64_t, std::string>> idle;
  for (const auto& [hash, entry] : entries_) {
    if (entry.page.use_count() == 1) idle.emplace_back(entry.used, hash);
  }
  std::sort(idle.begin(), idle.end());
  idle.resize(
      static_cast<size_t>(std::clamp<int64_t>(count, 0, static_cast<int64_t>(idle.size()))));
  for (const auto& [used, hash] : idle) entries_.erase(hash);
}

}  // namespace osp
