// The row kernels compiled for the avx512 level.
#include "osp/ops/kernels.h"

#define OSP_KERNELS_NAME "avx512"
#define OSP_KERNELS_FUNCTION avx512_kernels
#include "osp/ops/kernels_body.inc"
