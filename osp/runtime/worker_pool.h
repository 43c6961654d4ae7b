// Threads that do one phase of a step together, many thousand times a second.
//
// A phase is a number of items that the threads take one by one; the caller takes items too, and
// returns when all are done, whether or not the others ever woke: a thread whose core is taken by
// another process delays a phase by one item at most. Threads wait for the next phase by spinning
// for some microseconds and sleep after that, so that a process with as many threads as cores
// starves nobody.
//
// Tested by worker_pool_test.cpp.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace osp {

class WorkerPool {
 public:
  // `threads` in all, the caller's included; at least one.
  explicit WorkerPool(int64_t threads);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  int64_t threads() const { return static_cast<int64_t>(workers_.size()) + 1; }

  // Calls task(i) once for every i from 0 to items − 1, in any order, side by side. The task must
  // not throw. Not for two callers at once. At most 2^31 items.
  template <class Task>
  void run(int64_t items, const Task& task) {
    if (items == 1 || threads() == 1) {
      for (int64_t i = 0; i < items; ++i) task(i);
    } else if (items > 1) {
      run_raw([](const void* context, int64_t i) { (*static_cast<const Task*>(context))(i); },
              &task, items);
    }
  }

  // Splits 0 … count − 1 into neighbouring parts, some for each thread: task(begin, end).
  template <class Task>
  void split(int64_t count, const Task& task) {
    const int64_t most = threads() == 1 ? 1 : kPartsPerThread * threads();
    const int64_t parts = count < most ? count : most;
    run(parts, [&](int64_t i) { task(count * i / parts, count * (i + 1) / parts); });
  }

 private:
  static constexpr int64_t kPartsPerThread = 4;
  using Call = void (*)(const void* context, int64_t item);

  void run_raw(Call call, const void* context, int64_t items);
  void work();
  void take_items();

  std::vector<std::thread> workers_;
  // The phase's number in the upper half, items that nobody has taken yet in the lower half: taking
  // one can only succeed in the phase that it belongs to.
  std::atomic<uint64_t> left_ = 0;
  std::atomic<int64_t> unfinished_ = 0;
  std::atomic<bool> leaving_ = false;
  std::atomic<Call> call_ = nullptr;
  std::atomic<const void*> context_ = nullptr;
};

}  // namespace osp
