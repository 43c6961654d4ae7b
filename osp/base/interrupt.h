// SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask long work to keep what it has and leave.
//
// Every loop that may run longer than a second asks, at least once a second: with stop_requested()
// where there is something to save first, else with leave_if_stopped().
//
// Tested by osp/train/loop_test.cpp, tests/python/test_train.py, tests/python/test_signals.py and
// tests/python/test_py_engine.py.
#pragma once

#include <atomic>
#include <string>

namespace osp {

// Installs the handlers for the life of the process. A SIGHUP that the caller ignores (nohup)
// stays ignored.
void catch_signals();

// The signal that asked to stop, SIGINT for a StopFlag, 0 if none did.
int stop_requested();

// "SIGTERM", of the signal that asked.
std::string stop_signal_name();

// Error(interrupted), "stopped by SIGTERM while WORK", if a signal has asked to stop.
void leave_if_stopped(const char* work);

// While it lives, reading weights and writing files ask too, in this thread: for work whose one
// result is a file or folder, of which a part is worth nothing. (Training completes its saves.)
class StoppableFiles {
 public:
  StoppableFiles();
  ~StoppableFiles();
  StoppableFiles(const StoppableFiles&) = delete;
  StoppableFiles& operator=(const StoppableFiles&) = delete;
};

// leave_if_stopped(), below a StoppableFiles alone.
void leave_files_if_stopped(const char* work);

// While it lives, a set `flag` asks the work of this thread to stop, as SIGINT would: for a program
// that runs the work in a thread of its own and has no handlers of ours. One at a time in a thread.
class StopFlag {
 public:
  explicit StopFlag(const std::atomic<bool>& flag);
  ~StopFlag();
  StopFlag(const StopFlag&) = delete;
  StopFlag& operator=(const StopFlag&) = delete;
};

// Forgets a request, for programs that train more than once.
void clear_stop_request();

}  // namespace osp
