// The butterflies compiled for the portable level.
#include "osp/quant/hadamard_kernels.h"

#define OSP_HADAMARD_FUNCTION hadamard_kernels_portable
#include "osp/quant/hadamard_kernels_body.inc"
