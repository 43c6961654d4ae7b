#include "osp/base/interrupt.h"

#include <csignal>
#include <cstring>

#include "osp/base/error.h"

namespace osp {
namespace {

// The one thing a signal handler may touch.
volatile std::sig_atomic_t stop_signal = 0;

thread_local const std::atomic<bool>* stop_flag = nullptr;
thread_local bool files_stop = false;

void remember(int signal) { stop_signal = signal; }

}  // namespace

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaction(signal, &action, nullptr);
  struct sigaction hang_up {};
  sigaction(SIGHUP, nullptr, &hang_up);
  if (hang_up.sa_handler != SIG_IGN) sigaction(SIGHUP, &action, nullptr);
}

int stop_requested() {
  return stop_flag != nullptr && *stop_flag ? SIGINT : static_cast<int>(stop_signal);
}

StopFlag::StopFlag(const std::atomic<bool>& flag) { stop_flag = &flag; }
StopFlag::~StopFlag() { stop_flag = nullptr; }

StoppableFiles::StoppableFiles() { files_stop = true; }
StoppableFiles::~StoppableFiles() { files_stop = false; }

std::string stop_signal_name() {
  const char* name = sigabbrev_np(stop_requested());
  return name == nullptr ? "a signal" : std::string("SIG") + name;
}

void leave_if_stopped(const char* work) {
  if (stop_requested() == 0) return;
  fail(ErrorCode::interrupted, "stopped by {} while {}", stop_signal_name(), work);
}

void leave_files_if_stopped(const char* work) {
  if (files_stop) leave_if_stopped(work);
}

void clear_stop_request() { stop_signal = 0; }

}  // namespace osp
