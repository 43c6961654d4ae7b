// One producer, several workers, results in the producer's order, a bounded number of items alive.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "osp/base/error.h"

namespace osp {

struct DocumentPipelineOptions {
  int num_workers = 1;
  size_t max_in_flight = 4;  // items produced but not yet consumed
};

// Runs produce(push) on a thread of its own, work(item) on the workers, and consume(result) on the
// calling thread, in the order of the pushes whatever the number of workers. push waits while
// max_in_flight items are alive and returns false once the pipeline has failed. The first exception
// in that order (an item's, or the producer's after its last item) is rethrown when all threads
// have ended.
template <class Item, class Result>
class OrderedPipeline {
 public:
  using Push = std::function<bool(Item)>;

  OrderedPipeline(const DocumentPipelineOptions& options, std::function<void(const Push&)> produce,
                  std::function<Result(Item)> work, std::function<void(Result)> consume)
      : options_(options),
        produce_(std::move(produce)),
        work_(std::move(work)),
        consume_(std::move(consume)) {
    OSP_CHECK(options.num_workers > 0 && options.max_in_flight > 0, "{} workers, {} in flight",
              options.num_workers, options.max_in_flight);
  }

  void run() {
    std::vector<std::thread> threads;
    std::exception_ptr failure;
    try {
      threads.emplace_back([this] { run_producer(); });
      for (int i = 0; i < options_.num_workers; ++i) threads.emplace_back([this] { run_worker(); });
      for (Done done; next_done(done);) {
        if (done.error) std::rethrow_exception(done.error);
        consume_(std::move(*done.result));
        done.result.reset();
        release_one();
      }
    } catch (...) {
      failure = std::current_exception();
    }
    stop();
    for (std::thread& thread : threads) thread.join();
    if (failure) std::rethrow_exception(failure);
  }

 private:
  // The outcome of an item.
  struct Done {
    std::unique_ptr<Result> result;
    std::exception_ptr error;
  };

  void run_producer() {
    std::exception_ptr error;
    try {
      produce_([this](Item item) { return push(std::move(item)); });
    } catch (...) {
      error = std::current_exception();
    }
    const std::lock_guard lock(mutex_);
    if (error) done_[num_pushed_++] = {.result = nullptr, .error = error};
    closed_ = true;
    changed_.notify_all();
  }

  bool push(Item item) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stopped_ || in_flight_ < options_.max_in_flight; });
    if (stopped_) return false;
    ++in_flight_;
    waiting_.emplace_back(num_pushed_++, std::move(item));
    changed_.notify_all();
    return true;
  }

  void run_worker() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return stopped_ || closed_ || !waiting_.empty(); });
      if (stopped_ || waiting_.empty()) return;
      auto [place, item] = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      Done done;
      try {
        done.result = std::make_unique<Result>(work_(std::move(item)));
      } catch (...) {
        done.error = std::current_exception();
      }
      lock.lock();
      done_[place] = std::move(done);
      changed_.notify_all();
    }
  }

  // Takes the next result in order; false after the last.
  bool next_done(Done& done) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] {
      return done_.contains(num_consumed_) || (closed_ && num_consumed_ == num_pushed_);
    });
    const auto found = done_.find(num_consumed_);
    if (found == done_.end()) return false;
    done = std::move(found->second);
    done_.erase(found);
    ++num_consumed_;
    return true;
  }

  void release_one() {
    const std::lock_guard lock(mutex_);
    --in_flight_;
    changed_.notify_all();
  }

  void stop() {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }

  const DocumentPipelineOptions options_;
  const std::function<void(const Push&)> produce_;
  const std::function<Result(Item)> work_;
  const std::function<void(Result)> consume_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::pair<uint64_t, Item>> waiting_;
  std::map<uint64_t, Done> done_;
  uint64_t num_pushed_ = 0, num_consumed_ = 0;
  size_t in_flight_ = 0;
  bool closed_ = false, stopped_ = false;
};

}  // namespace osp
