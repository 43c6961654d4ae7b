#include "osp/ptq/rtn.h"

namespace osp {

constexpr RoundingRow kRtn = {
    .name = "rtn",
    .sentence = "round to nearest",
    .alone_in_table = true,
    .round = [](const LayerToRound& layer) -> RoundedLayer {
      return {.quantized = round_to_nearest(layer.weight, layer.grid, layer.name)};
    }};

}  // namespace osp
