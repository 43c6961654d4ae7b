// SIGTERM, SIGINT and SIGUSR1 ask the loop to save and leave; a full disk is an error, not a
// signal.
#pragma once

namespace osp {

// Installs the handlers for the life of the process (SIGXFSZ is ignored: a write beyond the limit
// then fails with EFBIG).
void catch_signals();

// The signal that asked to stop, 0 if none did.
int stop_requested();

// Forgets a request, for programs that train more than once.
void clear_stop_request();

}  // namespace osp
