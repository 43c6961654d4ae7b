// `osp report --watch`: the page of runs that still go on, served on 127.0.0.1 and kept up to date.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "osp/report/page.h"

namespace osp {

struct WatchOptions {
  std::vector<std::string> inputs;
  std::vector<std::string> labels;
  int port = 0;  // 0: a free one
  PageOptions page = {};
  std::function<void(const std::string& url)> serving;         // once the server listens
  std::function<void(const std::string& problem)> unreadable;  // inputs cannot be read right now
};

// Serves until SIGINT, SIGTERM or SIGUSR1. The page asks for /version and takes over /update when
// it has changed. Inputs are read when a file of theirs changes; when they cannot be read (a result
// that is just being written), the last page stays. Errors of the first reading are thrown.
void watch_runs(const WatchOptions& options, const std::string& plotly);

}  // namespace osp
