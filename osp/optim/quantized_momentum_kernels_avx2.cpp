// The passes over quantized momentum compiled for the avx2 level.
#include "osp/optim/quantized_momentum_kernels.h"

#define OSP_MOMENTUM_FUNCTION quantized_momentum_kernels_avx2
#include "osp/optim/quantized_momentum_kernels_body.inc"
