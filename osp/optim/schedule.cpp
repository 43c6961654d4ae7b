#include "osp/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "osp/base/error.h"

namespace osp {
namespace {

// Falls from 1 at t = 0 to `floor` at t = 1.
double fall(const std::string& shape, double t, double floor) {
  t = std::clamp(t, 0.0, 1.0);
  double left = 1 - t;
  if (shape == "cosine") left = 0.5 * (1 + std::cos(std::numbers::pi * t));
  if (shape == "1-sqrt") left = 1 - std::sqrt(t);
  return floor + (1 - floor) * left;
}

int64_t decay_length(const ScheduleConfig& schedule, int64_t total_steps) {
  if (schedule.decay_steps > 0) return schedule.decay_steps;
  return std::llround(schedule.decay_fraction * static_cast<double>(total_steps));
}

double position(int64_t step, int64_t start, int64_t total_steps) {
  return static_cast<double>(step - 1 - start) /
         static_cast<double>(std::max<int64_t>(1, total_steps - start));
}

}  // namespace

int64_t steps_before_decay(const ScheduleConfig& schedule, int64_t total_steps) {
  if (schedule.kind == "constant") return total_steps;
  if (schedule.kind != "wsd") return schedule.warmup_steps;
  return total_steps - decay_length(schedule, total_steps);
}

double lr_factor(const ScheduleConfig& schedule, int64_t step, int64_t total_steps) {
  OSP_CHECK(step >= 1, "step {}", step);
  if (step <= schedule.warmup_steps) {
    return static_cast<double>(step) / static_cast<double>(schedule.warmup_steps);
  }
  if (schedule.kind == "constant") return 1;
  const int64_t start = steps_before_decay(schedule, total_steps);
  if (step <= start) return 1;
  const std::string& shape = schedule.kind == "wsd" ? schedule.decay_shape : schedule.kind;
  return fall(shape, position(step, start, total_steps), schedule.final_lr);
}

double scheduled_momentum(const ScheduleConfig& schedule, double momentum, int64_t step) {
  if (step > schedule.momentum_warmup_steps) return momentum;
  const double t =
      static_cast<double>(step - 1) / static_cast<double>(schedule.momentum_warmup_steps);
  return schedule.momentum_start + (momentum - schedule.momentum_start) * t;
}

double weight_decay_factor(const ScheduleConfig& schedule, int64_t step, int64_t total_steps) {
  if (schedule.weight_decay_kind == "constant") return 1;
  return fall(schedule.weight_decay_kind, position(step, 0, total_steps),
              schedule.weight_decay_final);
}

StepValues step_values(const OptimConfig& optim, const ScheduleConfig& schedule,
                       const OptimizerGroup& group, int64_t step, int64_t total_steps) {
  StepValues values;
  values.step = step;
  values.lr = optim.lr * group.lr_scale * lr_factor(schedule, step, total_steps);
  values.momentum = scheduled_momentum(schedule, optim.momentum, step);
  values.weight_decay =
      group.decays ? optim.weight_decay * weight_decay_factor(schedule, step, total_steps) : 0;
  return values;
}

void check_schedule(const ScheduleConfig& schedule, int64_t total_steps) {
  if (schedule.warmup_steps > total_steps) {
    fail(ErrorCode::usage,
         "schedule.warmup_steps: {} steps of warm-up in a run of {}; give fewer, or train longer",
         schedule.warmup_steps, total_steps);
  }
  if (schedule.kind != "wsd") return;
  const int64_t decay = decay_length(schedule, total_steps);
  if (schedule.warmup_steps + decay > total_steps) {
    fail(ErrorCode::usage,
         "schedule: {} steps of warm-up and {} of decay do not fit into a run of {}; lower "
         "schedule.warmup_steps, schedule.decay_steps or schedule.decay_fraction",
         schedule.warmup_steps, decay, total_steps);
  }
}

}  // namespace osp
