// SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask long work to keep what it has and leave.
//
// Every loop that may run longer than a second asks, at least once a second: with stop_requested()
// where there is something to save first, else with leave_if_stopped().
//
// Tested by osp/train/loop_test.cpp, tests/python/test_train.py and tests/python/test_signals.py.
#pragma once

#include <string>

namespace osp {

// Installs the handlers for the life of the process. A SIGHUP that the caller ignores (nohup) stays
// ignored.
void catch_signals();

// The signal that asked to stop, 0 if none did. Always 0 before catch_signals().
int stop_requested();

// "SIGTERM", of the signal that asked.
std::string stop_signal_name();

// Error(interrupted), "stopped by SIGTERM while WORK", if a signal has asked to stop.
void leave_if_stopped(const char* work);

// Forgets a request, for programs that train more than once.
void clear_stop_request();

}  // namespace osp
