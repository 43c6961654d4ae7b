// A thread that a model works in, for programs whose own threads must stay free: calls are done one
// after the other, in the order in which they came, and each can be waited for, followed and
// cancelled from any thread. The thread has the tensor library's settings of a new one (no
// autocast, no inference mode), whatever the caller's are.
//
// Tested by tests/python/test_py_engine.py.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

namespace osp {

// Work that was given to a model, and what has come of it.
class ModelCall {
 public:
  using Sink = std::function<void(std::string_view)>;
  using Work = std::function<std::string(const Sink&)>;
  explicit ModelCall(Work work) : work_(std::move(work)) {}

  // Waits at most so long for the next piece of text, or for the end. True once either is there.
  bool wait_for_piece(std::chrono::milliseconds most);
  bool wait_for_end(std::chrono::milliseconds most);
  // The oldest piece that was not taken yet.
  std::optional<std::string> take_piece();
  // After the end: the result, or the exception that ended it.
  std::string result();
  // Asks the work to leave, at its next forward pass at the latest. It then ends with
  // Error(interrupted).
  void cancel() { cancelled_ = true; }
  bool was_cancelled() const { return cancelled_; }
  // Cancels a call whose model is closed, which then says so.
  void close() {
    closed_ = true;
    cancel();
  }

 private:
  friend class ModelThread;
  void run();

  Work work_;
  std::atomic<bool> cancelled_ = false;
  std::atomic<bool> closed_ = false;
  std::mutex mutex_;  // of what follows
  std::condition_variable changed_;
  std::deque<std::string> pieces_;
  bool ended_ = false;
  std::string result_;
  std::exception_ptr error_;
};

class ModelThread {
 public:
  ModelThread();
  // Cancels the calls that are not done yet, and waits until the one that runs has left. In a
  // process that was forked off, where there is no such thread, it only lets go of what it has.
  ~ModelThread();
  ModelThread(const ModelThread&) = delete;
  ModelThread& operator=(const ModelThread&) = delete;

  // Error(usage) in a process that was forked off.
  std::shared_ptr<ModelCall> start(ModelCall::Work work);
  bool is_of_this_process() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace osp
