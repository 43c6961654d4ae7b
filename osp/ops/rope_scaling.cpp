#include "osp/ops/rope_scaling.h"

#include <cmath>

#include "osp/base/error.h"

namespace osp {

double rotary_magnitude(const RopeScaling& scaling) {
  if (scaling.type != "yarn" && scaling.type != "longrope") return 1.0;
  if (scaling.attention_factor > 0) return scaling.attention_factor;
  if (scaling.factor <= 1.0) return 1.0;
  const double growth = std::log(scaling.factor);
  if (scaling.type == "longrope") {
    return std::sqrt(1.0 + growth / std::log(static_cast<double>(scaling.original_context)));
  }
  const bool both = scaling.mscale != 0 && scaling.mscale_all_dim != 0;
  if (!both) return 0.1 * growth + 1.0;
  return (0.1 * scaling.mscale * growth + 1.0) / (0.1 * scaling.mscale_all_dim * growth + 1.0);
}

bool beyond_original(const RopeScaling& scaling, int64_t tokens) {
  const bool by_length = scaling.type == "longrope" || scaling.type == "dynamic";
  return by_length && tokens > scaling.original_context;
}

void check_rotary_growth(const RopeScaling& scaling, int64_t held, int64_t total) {
  if (!beyond_original(scaling, total)) return;
  if (scaling.type == "dynamic") {
    fail(ErrorCode::unsupported,
         "a text of {} tokens: the model's rotary embedding (rope_type = dynamic) changes with "
         "every "
         "token beyond {}, so that no key could be kept; use texts of up to {} tokens",
         total, scaling.original_context, scaling.original_context);
  }
  if (held > 0 && !beyond_original(scaling, held)) {
    fail(ErrorCode::unsupported,
         "a text grows from {} to {} tokens: beyond {} the model's rotary embedding (rope_type = "
         "longrope) turns all keys by other factors, and the kept ones would have to be computed "
         "anew; use texts of up to {} tokens, or give more than these at once",
         held, total, scaling.original_context, scaling.original_context);
  }
}

double rotary_fraction(int64_t channels, int64_t head) {
  const auto whole = static_cast<double>(head);
  const double fraction = static_cast<double>(channels) / whole;
  const bool short_of_it = static_cast<int64_t>(whole * fraction) < channels;
  return short_of_it ? std::nextafter(fraction, 1.0) : fraction;
}

double query_scale(const RopeScaling& scaling, int64_t position) {
  if (scaling.query_growth == 0) return 1.0;
  const auto contexts = static_cast<double>(position / scaling.original_context);
  return 1.0 + scaling.query_growth * std::log(1.0 + contexts);
}

}  // namespace osp
