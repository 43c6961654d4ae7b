#include "osp/cli/model_thread.h"

#include <unistd.h>

#include <utility>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"

namespace osp {

bool ModelCall::wait_for_piece(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, most, [&] { return ended_ || !pieces_.empty(); });
}

bool ModelCall::wait_for_end(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, most, [&] { return ended_; });
}

std::optional<std::string> ModelCall::take_piece() {
  const std::lock_guard lock(mutex_);
  if (pieces_.empty()) return {};
  std::string piece = std::move(pieces_.front());
  pieces_.pop_front();
  return piece;
}

std::string ModelCall::result() {
  const std::lock_guard lock(mutex_);
  OSP_CHECK(ended_, "a call that runs has no result");
  if (error_ && closed_) fail(ErrorCode::interrupted, "the model was closed during the call");
  if (error_) std::rethrow_exception(error_);
  return result_;
}

void ModelCall::run() {
  std::string result;
  std::exception_ptr error;
  try {
    const StopFlag stop(cancelled_);
    leave_if_stopped("a call waited for its turn");
    result = work_([this](std::string_view piece) {
      const std::lock_guard lock(mutex_);
      pieces_.emplace_back(piece);
      changed_.notify_all();
    });
  } catch (...) {
    error = std::current_exception();
  }
  work_ = {};  // what it holds is free before anyone hears of the end
  const std::lock_guard lock(mutex_);
  result_ = std::move(result);
  error_ = std::move(error);
  ended_ = true;
  changed_.notify_all();
}

struct ModelThread::State {
  const pid_t process = getpid();
  std::mutex mutex;  // of what follows
  std::condition_variable changed;
  std::deque<std::shared_ptr<ModelCall>> calls;  // the first one runs
  bool closing = false;
  std::thread thread;

  void work() {
    std::unique_lock lock(mutex);
    for (;;) {
      changed.wait(lock, [&] { return closing || !calls.empty(); });
      if (calls.empty()) return;
      const std::shared_ptr<ModelCall> call = calls.front();
      lock.unlock();
      call->run();
      lock.lock();
      calls.pop_front();
    }
  }
};

ModelThread::ModelThread() : state_(std::make_unique<State>()) {
  state_->thread = std::thread([state = state_.get()] { state->work(); });
}

ModelThread::~ModelThread() {
  if (!is_of_this_process()) {
    static_cast<void>(state_.release());  // its locks may be held for ever
    return;
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->closing = true;
    for (const auto& call : state_->calls) call->close();
    state_->changed.notify_all();
  }
  state_->thread.join();
}

std::shared_ptr<ModelCall> ModelThread::start(ModelCall::Work work) {
  if (!is_of_this_process()) {
    fail(ErrorCode::usage,
         "the model was opened by process {}, which this one was forked from; open it here",
         state_->process);
  }
  auto call = std::make_shared<ModelCall>(std::move(work));
  const std::lock_guard lock(state_->mutex);
  state_->calls.push_back(call);
  state_->changed.notify_all();
  return call;
}

bool ModelThread::is_of_this_process() const { return getpid() == state_->process; }

}  // namespace osp
