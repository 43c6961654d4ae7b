// The optimizer of parameters that are not trained: it does nothing and has no state.
//
// Tested by optimizers_test.cpp.
#pragma once

#include "osp/optim/optimizer.h"

namespace osp {

extern const OptimizerRow kFrozenRow;

}  // namespace osp
