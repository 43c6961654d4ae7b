// The settings that a peer runs with. The documentation of PyTorch and of the C library names them:
// how freed memory is kept (osp sets the same for itself, osp/cli/main.cpp), TCMalloc and jemalloc
// where they are installed, and how threads wait and are bound. Which is the fastest depends on the
// machine and the work, so each is tried.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// Variables of a program's environment, "NAME=value", or "NAME" for one that is removed.
using Environment = std::vector<std::string>;

struct PeerSettings {
  std::string name;  // "keep freed memory, threads wait passively"
  Environment environment;
};

// Those that are tried. Every one says how threads wait: osp's own setting is not handed down.
const std::vector<PeerSettings>& all_peer_settings();

// The settings with the largest rate, which `measure` finds out; each trial is added to `trials` as
// {"settings", "tokens_per_s"}, under the name `unit` of the rate.
const PeerSettings& fastest_settings(const std::function<double(const PeerSettings&)>& measure,
                                     const std::string& unit, Json& trials);

}  // namespace osp
