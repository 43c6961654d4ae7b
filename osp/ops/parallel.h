// Work that is shared by threads as they come free. The tensor library's parallel_for gives every
// thread a fixed part, so that all wait for one whose core is taken by another process.
//
// Tested by fused_attention_test.cpp and gram_test.cpp.
#pragma once

#include <ATen/Parallel.h>

#include <atomic>
#include <cstdint>
#include <functional>

namespace osp {

// Calls task(i) for i = 0 … count − 1, each once, in rising order but side by side.
template <class Task>
void for_each_task(int64_t count, const Task& task) {
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) task(i);
  });
}

// The same as one function, for code that is given the way in which it shares its work.
inline void share_tasks(int64_t count, const std::function<void(int64_t)>& task) {
  for_each_task(count, task);
}

}  // namespace osp
