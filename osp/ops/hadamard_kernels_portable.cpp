// The butterflies compiled for the portable level.
#include "osp/ops/hadamard_kernels.h"

#define OSP_HADAMARD_FUNCTION hadamard_kernels_portable
#include "osp/ops/hadamard_kernels_body.inc"
