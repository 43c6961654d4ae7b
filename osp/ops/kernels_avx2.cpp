// The row kernels compiled for the avx2 level.
#include "osp/ops/kernels.h"

#define OSP_KERNELS_NAME "avx2"
#define OSP_KERNELS_FUNCTION avx2_kernels
#include "osp/ops/kernels_body.inc"
