#include "osp/runtime/worker_pool.h"

#include "osp/base/error.h"

namespace osp {
namespace {

constexpr int kSpins = 1000;  // pauses before sleeping: 10 to 50 microseconds
constexpr uint64_t kItems = 0xffffffff;

// Waits until `value` is no longer `old`.
template <class T>
void wait_for_change(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    __builtin_ia32_pause();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

WorkerPool::WorkerPool(int64_t threads) {
  OSP_CHECK(threads >= 1, "a pool of {} threads", threads);
  for (int64_t worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this] { work(); });
  }
}

WorkerPool::~WorkerPool() {
  leaving_ = true;
  left_ += kItems + 1;
  left_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void WorkerPool::run_raw(Call call, const void* context, int64_t items) {
  // Nobody reads these before the new phase's items are there: there are none to take.
  call_.store(call, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  unfinished_.store(items, std::memory_order_relaxed);
  const uint64_t phase = (left_.load(std::memory_order_relaxed) | kItems) + 1;
  left_.store(phase | static_cast<uint64_t>(items), std::memory_order_release);
  left_.notify_all();
  take_items();
  for (int64_t n = unfinished_.load(std::memory_order_acquire); n != 0;
       n = unfinished_.load(std::memory_order_acquire)) {
    wait_for_change(unfinished_, n);
  }
}

void WorkerPool::take_items() {
  uint64_t seen = left_.load(std::memory_order_acquire);
  while ((seen & kItems) != 0) {
    if (!left_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
    const auto item = static_cast<int64_t>((seen & kItems) - 1);
    call_.load(std::memory_order_relaxed)(context_.load(std::memory_order_relaxed), item);
    unfinished_.fetch_sub(1, std::memory_order_acq_rel);
    unfinished_.notify_all();
    seen = left_.load(std::memory_order_acquire);
  }
}

void WorkerPool::work() {
  while (true) {
    const uint64_t seen = left_.load(std::memory_order_acquire);
    if (leaving_) return;  // set before the change that ends the wait
    if ((seen & kItems) == 0) wait_for_change(left_, seen);
    take_items();
  }
}

}  // namespace osp
