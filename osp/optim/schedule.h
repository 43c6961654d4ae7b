// Schedules: learning rate, momentum and weight decay as pure functions of the configuration and
// the step, so that a resumed run needs no state for them. Steps count from 1;
// `total_steps` is the last.
#pragma once

#include "osp/optim/config.h"
#include "osp/optim/optimizer.h"
#include "osp/optim/routing.h"

namespace osp {

// Fraction of the peak learning rate at `step`. During warm-up step / warmup_steps. Afterwards,
// with t = (step − 1 − start) / (total_steps − start), that is 0 at the first step of the decay and
// one step short of 1 at the last, and f = final_lr:
//   constant 1;  linear f + (1−f)(1−t);  cosine f + (1−f)(1+cos πt)/2, both from start = warm-up;
//   wsd: 1 until start = total_steps − decay length, then linear, cosine or f + (1−f)(1−√t).
double lr_factor(const ScheduleConfig& schedule, int64_t step, int64_t total_steps);

// Steps before the rate begins to fall: of linear and cosine those of the warm-up; of a
// constant rate all.
int64_t steps_before_decay(const ScheduleConfig& schedule, int64_t total_steps);

// Momentum (Muon and gains) at `step`: linear from momentum_start at step 1 to `momentum` at step
// 1 + momentum_warmup_steps, constant afterwards.
double scheduled_momentum(const ScheduleConfig& schedule, double momentum, int64_t step);

// Fraction of optim.weight_decay at `step`, falling over the whole run (no warm-up).
double weight_decay_factor(const ScheduleConfig& schedule, int64_t step, int64_t total_steps);

// All values for one group at one step, with the group's scale and decay applied.
StepValues step_values(const OptimConfig& optim, const ScheduleConfig& schedule,
                       const OptimizerGroup& group, int64_t step, int64_t total_steps);

// Error(usage) if warm-up and decay do not fit into total_steps.
void check_schedule(const ScheduleConfig& schedule, int64_t total_steps);

}  // namespace osp
