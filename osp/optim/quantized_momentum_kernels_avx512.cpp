// The passes over quantized momentum compiled for the avx512 level.
#include "osp/optim/quantized_momentum_kernels.h"

#define OSP_MOMENTUM_FUNCTION quantized_momentum_kernels_avx512
#include "osp/optim/quantized_momentum_kernels_body.inc"
