// The clipping search compiled for the portable level.
#include "osp/quant/grid_kernels.h"

#define OSP_GRID_FUNCTION grid_search_portable
#include "osp/quant/grid_kernels_body.inc"
