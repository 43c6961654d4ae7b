// SIGTERM, SIGINT and SIGUSR1 ask long work to save and leave.
//
// Tested by osp/train/loop_test.cpp and tests/python/test_train.py.
#pragma once

namespace osp {

// Installs the handlers for the life of the process.
void catch_signals();

// The signal that asked to stop, 0 if none did.
int stop_requested();

// Forgets a request, for programs that train more than once.
void clear_stop_request();

}  // namespace osp
