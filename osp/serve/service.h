// The OpenAI-compatible service of `osp serve`: paths, keys, models and counts.
//
// Tested by service_test.cpp and tests/python/test_serve.py.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "osp/http/http_server.h"
#include "osp/serve/completion_request.h"
#include "osp/serve/scheduler.h"

namespace osp {

struct ServiceOptions {
  int port = 0;
  std::vector<std::string> hosts = {};  // accepted beside 127.0.0.1 and localhost
  std::vector<std::string> keys = {};  // one of which a client must send; none: no key is asked for
  std::function<void(const std::string& url)> serving = nullptr;  // called once it listens
};

// True if `authorization` is "Bearer KEY" with one of the keys; takes as long for any wrong key.
bool is_authorized(const std::string& authorization, const std::vector<std::string>& keys);

// Answers requests until SIGTERM, SIGINT or SIGHUP, then finishes the texts in progress. These
// signals must be blocked in every thread of the process (block_stop_signals). A second signal:
// Error(interrupted) at once.
void run_service(const ServedModel& model, TextModel& texts, const SchedulerOptions& scheduler,
                 const ServiceOptions& options);

// Blocks them for this thread and those that it starts.
void block_stop_signals();

}  // namespace osp
