// The log of a run: metrics.jsonl, TensorBoard events, and a line for people.
//
// Tested by osp/train/loop_test.cpp, tests/python/test_train.py and
// tests/python/test_tensorboard.py.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "osp/base/console.h"
#include "osp/base/json.h"
#include "osp/data/mixture.h"
#include "osp/formats/tensorboard.h"
#include "osp/train/flops.h"
#include "osp/train/metrics_log.h"
#include "osp/train/state.h"
#include "osp/train/step.h"

namespace osp {

class RunLog {
 public:
  // `metrics_bytes`: length of metrics.jsonl at the checkpoint that the run resumes from; a log
  // that is empty gets its first line, kind "start". Of a mixture `data`, lines of steps say how
  // much of each source was taken. `peak` is 100 % in mfu.
  RunLog(const std::string& run, uint64_t metrics_bytes, TrainState& state, const Mixture& data,
         PeakRate peak, Console& console);

  void step(const StepReport& report);    // kind "step", about the last step
  void validation(const Json& measured);  // kind "validation" with the result of validate()
  void sample(const std::string& prompt, const std::string& text);  // kind "sample"
  void extended(int64_t steps_before);  // kind "extend": another train.steps from here on
  void end();                           // kind "end"

  // metrics.jsonl on disk, durably. Error(io) otherwise; no line is lost then.
  void sync() { metrics_.sync(); }
  uint64_t metrics_bytes() const { return metrics_.bytes(); }
  // Brings state.seconds up to now.
  void count_time();

 private:
  void add(const Json& line);
  void plot(const std::string& tag, double value);
  void show(const Json& line);
  double mfu(double tokens_per_s);
  Json taken_of_sources();

  TrainState& state_;
  const Mixture& data_;
  std::vector<uint64_t> visits_;  // of each source, in the steps before counted_step_
  int64_t counted_step_ = 0;
  Console& console_;
  MetricsLog metrics_;
  std::optional<EventWriter> events_;  // absent after a failure: the run continues without
  PeakRate peak_;
  std::chrono::steady_clock::time_point counted_to_;  // state.seconds holds the time before
  double train_seconds_ = 0;                          // in steps, since the last logged one
  double data_seconds_ = 0;                           // the part of it spent reading batches
  int64_t train_steps_ = 0;
  std::string validation_text_;
};

}  // namespace osp
