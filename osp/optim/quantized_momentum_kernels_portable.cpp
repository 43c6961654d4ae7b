// The passes over quantized momentum compiled for the portable level.
#include "osp/optim/quantized_momentum_kernels.h"

#define OSP_MOMENTUM_FUNCTION quantized_momentum_kernels_portable
#include "osp/optim/quantized_momentum_kernels_body.inc"
