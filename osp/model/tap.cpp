#include "osp/model/tap.h"

#include "osp/base/error.h"

namespace osp {

TapPoint input_point(ParameterRole role) {
  switch (role) {
    case ParameterRole::query:
    case ParameterRole::key:
    case ParameterRole::value:
      return TapPoint::attention_input;
    case ParameterRole::attention_output:
      return TapPoint::attention_output;
    case ParameterRole::router:
    case ParameterRole::gate:
    case ParameterRole::up:
      return TapPoint::mlp_input;
    case ParameterRole::down:
      return TapPoint::mlp_product;
    case ParameterRole::head_projection:
      return TapPoint::final_state;
    case ParameterRole::head:
      return TapPoint::head_input;
    // EmbProj reads the rows of the table, which no point shows.
    case ParameterRole::embedding_projection:
    // These are not linear layers.
    case ParameterRole::embedding:
    case ParameterRole::position_embedding:
    case ParameterRole::embedding_norm:
    case ParameterRole::input_norm:
    case ParameterRole::query_norm:
    case ParameterRole::key_norm:
    case ParameterRole::attention_sink:
    case ParameterRole::attention_branch_scale:
    case ParameterRole::post_attention_norm:
    case ParameterRole::mlp_branch_scale:
    case ParameterRole::attention_end_norm:
    case ParameterRole::post_feedforward_norm:
    case ParameterRole::final_norm:
      break;
  }
  OSP_CHECK(false, "no tap point shows the input of role {}", static_cast<int>(role));
}

}  // namespace osp
