// The row kernels compiled for the portable level.
#include "osp/ops/kernels.h"

#define OSP_KERNELS_NAME "portable"
#define OSP_KERNELS_FUNCTION portable_kernels
#include "osp/ops/kernels_body.inc"
