// `osp report --watch`: the page of runs in progress, served on 127.0.0.1 and kept up to date.
// Tested by tests/python/test_report_watch.py.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "osp/report/page.h"

namespace osp {

struct LivePageOptions {
  std::vector<std::string> inputs;
  std::vector<std::string> labels;
  int port = 0;  // 0: a free one
  PageOptions page = {};
  std::function<void(const std::string& url)> serving;         // called when the server listens
  std::function<void(const std::string& problem)> unreadable;  // called when inputs cannot be read
};

// Serves the page until SIGINT, SIGTERM or SIGUSR1. The page polls /version and loads /update when
// the version has changed. Inputs are read again when one of their files changes; while they cannot
// be read (a result that is just being written), the last page stays. Errors of the first reading
// are thrown.
void serve_live_page(const LivePageOptions& options, const std::string& plotly);

}  // namespace osp
