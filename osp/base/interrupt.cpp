#include "osp/base/interrupt.h"

#include <csignal>

namespace osp {
namespace {

// The one thing a signal handler may touch.
volatile std::sig_atomic_t stop_signal = 0;

void remember(int signal) { stop_signal = signal; }

}  // namespace

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = remember;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaction(signal, &action, nullptr);
}

int stop_requested() { return stop_signal; }

void clear_stop_request() { stop_signal = 0; }

}  // namespace osp
