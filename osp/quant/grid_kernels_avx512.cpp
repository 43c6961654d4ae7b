// The clipping search compiled for the avx512 level.
#include "osp/quant/grid_kernels.h"

#define OSP_GRID_FUNCTION grid_search_avx512
#include "osp/quant/grid_kernels_body.inc"
