#include "osp/train/guard.h"

#include <fmt/format.h>

#include <cmath>

#include "osp/base/error.h"
#include "osp/base/json_text.h"

namespace osp {
namespace {

// (value − mean) / standard deviation over the window; 0 while the window cannot say (fewer than
// eight values, or all equal).
double z_score(const std::deque<double>& window, double value) {
  constexpr size_t kFewest = 8;
  if (window.size() < kFewest) return 0;
  double mean = 0, square = 0;
  for (const double x : window) mean += x;
  mean /= static_cast<double>(window.size());
  for (const double x : window) square += (x - mean) * (x - mean);
  const double deviation = std::sqrt(square / static_cast<double>(window.size() - 1));
  return deviation > 0 ? (value - mean) / deviation : 0;
}

void remember(std::deque<double>& window, double value, int64_t length) {
  window.push_back(value);
  while (window.size() > size_t(length)) window.pop_front();
}

std::deque<double> read_window(const Json& state, const std::string& key,
                               const std::string& where) {
  if (!state.contains(key) || !state[key].is_array()) {
    fail(ErrorCode::damaged, "{}: guard.{} is no array", where, key);
  }
  std::deque<double> window;
  for (const Json& value : state[key]) {
    if (!value.is_number() || !std::isfinite(value.get<double>())) {
      fail(ErrorCode::damaged, "{}: guard.{} holds {}, expected finite numbers", where, key,
           json_text(value));
    }
    window.push_back(value.get<double>());
  }
  return window;
}

}  // namespace

std::string Guard::judge(int64_t step, double loss, double gradient_norm) {
  // Values that are not finite, then spikes.
  std::string reason;
  if (!std::isfinite(loss)) {
    reason = fmt::format("the loss is {}", loss);
  } else if (!std::isfinite(gradient_norm)) {
    reason = fmt::format("the gradient norm is {}", gradient_norm);
  } else if (gradient_norm > kLargestGradientNorm) {
    reason = fmt::format("the gradient norm is {:.3g}, beyond {:.0e}: its square overflows",
                         gradient_norm, kLargestGradientNorm);
  } else if (const double z = z_score(losses_, loss); config_.loss_z > 0 && z > config_.loss_z) {
    reason = fmt::format("the loss {:.4g} is {:.1f} standard deviations above the last {}", loss, z,
                         losses_.size());
  } else if (const double w = z_score(norms_, gradient_norm);
             config_.gradient_norm_z > 0 && w > config_.gradient_norm_z) {
    reason = fmt::format("the gradient norm {:.4g} is {:.1f} standard deviations above the last {}",
                         gradient_norm, w, norms_.size());
  }

  // Accepted: the values enter the window.
  if (reason.empty()) {
    consecutive_ = 0;
    remember(losses_, loss, config_.window);
    remember(norms_, gradient_norm, config_.window);
    return reason;
  }

  // Skipped: too many in a row end the run.
  ++skipped_;
  ++consecutive_;
  if (consecutive_ >= config_.max_consecutive_skips) {
    fail(ErrorCode::diverged,
         "step {}: {}; {} steps in a row were skipped (guard.max_consecutive_skips): the "
         "weights are those before them",
         step, reason, consecutive_);
  }
  return reason;
}

Json Guard::to_json() const {
  return Json{{"losses", losses_},
              {"gradient_norms", norms_},
              {"skipped", skipped_},
              {"consecutive", consecutive_}};
}

void Guard::from_json(const Json& state, const std::string& where) {
  losses_ = read_window(state, "losses", where);
  norms_ = read_window(state, "gradient_norms", where);
  skipped_ = json_int(state, "skipped", where);
  consecutive_ = json_int(state, "consecutive", where);
}

}  // namespace osp
