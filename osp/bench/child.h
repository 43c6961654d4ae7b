// Programs that a bench runs, each in a process of its own.
//
// Tested by peer_settings_test.cpp.
#pragma once

#include <string>
#include <vector>

#include "osp/base/json.h"
#include "osp/bench/peer_settings.h"

namespace osp {

// The path of the running program.
std::string own_program();

// What the whole process took, from its start to its end: {"cpu_seconds", "wall_seconds"}.
inline constexpr const char* kProcess = "process";

// Runs a program, which prints one JSON object on stdout; its stderr is ours, and so is
// its environment, but for `changes`. The object gets kProcess. Error(io) if it cannot be started,
// Error(unsupported) if it fails.
Json run_child(const std::vector<std::string>& command, const Environment& changes = {});

}  // namespace osp
