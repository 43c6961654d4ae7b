// Programs that a bench runs in turn with this one, each in a process of its own.
#pragma once

#include <cstdint>
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

// Options of the benches that time steps of both sides in turn.
struct TurnOptions {
  int64_t steps = 3;
  int64_t repetitions = 3;
  int64_t threads = 0;
  std::string python = ".venv/bin/python";
  std::string peer;

  // Sets the tensor library's threads, if some are asked for.
  void use_threads() const;
  // "--steps", "--threads" and their values, as both sides take them.
  std::vector<std::string> words() const;
};

}  // namespace osp
