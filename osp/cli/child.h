// Programs that a bench runs in turn with this one, each in a process of its own.
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

// Error(usage) if the peer's interpreter or script does not exist.
void check_peer(const std::string& python, const std::string& script);

double median(std::vector<double> values);

}  // namespace osp
