// Fetches the shards of coming steps from an object store while training goes on.
//
// A thread walks through the sequences that this process will read, in their order, and brings
// their shards into the cache: through the next block of windows (BatchPlan), and no further than
// half of the cache holds, counting each shard until the last sequence of it that the walk has met
// was read.
//
// Tested by tests/python/test_object_stores.py.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "osp/data/batch.h"
#include "osp/data/mixture.h"

namespace osp {

class Prefetcher {
 public:
  // Sequences [first, first + count) of steps [begin, end). Starts no thread if all sources are
  // local. `data` must outlive this.
  Prefetcher(const Mixture& data, const BatchPlan& plan, int64_t first, int64_t count,
             int64_t begin, int64_t end);
  ~Prefetcher();
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // The steps before `step` have been read.
  void reached(int64_t step);

 private:
  using Shard = std::pair<size_t, size_t>;  // source, number

  void walk();
  bool prepare(Shard shard, int64_t step);

  const Mixture& data_;
  const BatchPlan plan_;
  const int64_t first_, count_, end_;
  uint64_t budget_ = 0;
  int64_t horizon_ = 0;  // steps
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t reached_;
  bool stopped_ = false;
  std::map<Shard, int64_t> ahead_;  // the last step that needs each shard, as far as was walked
  std::thread thread_;
};

}  // namespace osp
