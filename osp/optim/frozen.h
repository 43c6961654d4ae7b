// The optimizer of parameters that are not trained: it does nothing and has no state.
#pragma once

#include "osp/optim/optimizer.h"

namespace osp {

extern const OptimizerRow kFrozenRow;

}  // namespace osp
