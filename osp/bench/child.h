// Programs that a bench runs, each in a process of its own.
#pragma once

#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// The path of the running program.
std::string own_program();

// Runs a program, which prints one JSON object on stdout; its stderr is ours. Error(io) if it
// cannot be started, Error(unsupported) if it fails.
Json run_child(const std::vector<std::string>& command);

}  // namespace osp
