// The butterflies compiled for the avx2 level.
#include "osp/ops/hadamard_kernels.h"

#define OSP_HADAMARD_FUNCTION hadamard_kernels_avx2
#include "osp/ops/hadamard_kernels_body.inc"
