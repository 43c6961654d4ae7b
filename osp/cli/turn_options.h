// Options of `osp bench` parts that time steps of both sides in turn.
#pragma once

#include "osp/bench/turn.h"
#include "osp/cli/command.h"

namespace osp {

void add_turn_options(Command& command, TurnOptions& options);

}  // namespace osp
