#include "osp/data/prefetch.h"

#include <algorithm>

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr double kLeastWindowsAhead = 4096;

}  // namespace

Prefetcher::Prefetcher(const Mixture& data, const BatchPlan& plan, int64_t first, int64_t count,
                       int64_t begin, int64_t end)
    : data_(data), plan_(plan), first_(first), count_(count), end_(end), reached_(begin) {
  bool any_stored = false;
  double visits = kLeastWindowsAhead;
  for (size_t k = 0; k < data.sources().size(); ++k) {
    const TokenDataset& source = *data.sources()[k].data;
    if (!source.is_stored()) continue;
    any_stored = true;
    budget_ = source.cache_limit().max_bytes / 2;
    visits = std::max(visits, 2 * static_cast<double>(plan.block_windows) / data.share(k));
  }
  horizon_ = static_cast<int64_t>(visits) / plan.sequences_per_step + 1;
  if (any_stored && begin < end) thread_ = std::thread([this] { walk(); });
}

Prefetcher::~Prefetcher() {
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Prefetcher::reached(int64_t step) {
  {
    const std::lock_guard lock(mutex_);
    reached_ = step;
  }
  changed_.notify_all();
}

void Prefetcher::walk() {
  const auto context = static_cast<uint64_t>(plan_.context);
  int64_t begin;
  {
    const std::lock_guard lock(mutex_);
    begin = reached_;
  }
  for (int64_t step = begin; step < end_; ++step) {
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || step < reached_ + horizon_; });
      if (stopped_) return;
    }
    for (int64_t i = 0; i < count_; ++i) {
      const WindowPlace place = window_place(data_, plan_, step, first_ + i);
      const TokenDataset& source = *data_.sources()[place.source].data;
      if (!source.is_stored()) continue;
      // The last target may be in the next shard.
      const size_t last = source.shard_at(place.begin + context);
      for (size_t shard = source.shard_at(place.begin); shard <= last; ++shard) {
        if (!prepare({place.source, shard}, step)) return;
      }
    }
  }
}

// Brings a shard that `step` needs into the cache once there is room; false if the walk shall end.
bool Prefetcher::prepare(Shard shard, int64_t step) {
  const auto bytes_of = [&](Shard of) {
    return data_.sources()[of.first].data->shard_bytes(of.second);
  };
  {
    std::unique_lock lock(mutex_);
    const auto has_room = [&] {
      std::erase_if(ahead_, [&](const auto& entry) { return entry.second < reached_; });
      uint64_t bytes = bytes_of(shard);
      for (const auto& [other, unused] : ahead_) bytes += bytes_of(other);
      return ahead_.empty() || bytes <= budget_;
    };
    if (const auto found = ahead_.find(shard); found != ahead_.end()) {
      found->second = std::max(found->second, step);
      return !stopped_;
    }
    changed_.wait(lock, [&] { return stopped_ || has_room(); });
    if (stopped_) return false;
    ahead_[shard] = step;
    // The step that needs it may have read it already.
    if (step < reached_) return true;
  }
  try {
    data_.sources()[shard.first].data->fetch_shard(shard.second);
  } catch (const Error&) {
    // The step that needs it meets the same, and reports it.
    return false;
  }
  return true;
}

}  // namespace osp
