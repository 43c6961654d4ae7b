// The guard decides before each update whether it may happen: a loss or gradient that is not finite
// never reaches weights or optimizer state, and a spike is skipped if the recipe says so.
#pragma once

#include <cstdint>
#include <deque>
#include <string>

#include "osp/base/json.h"
#include "osp/train/config.h"

namespace osp {

// The largest gradient norm that optimizers can work with: they square gradients in fp32, and the
// sum of squares of a norm of 1.8e19 overflows, which would silently freeze weights or
// make them NaN.
inline constexpr double kLargestGradientNorm = 1e18;

// Holds the last accepted losses and gradient norms. Only finite values ever enter the window, and
// only those of accepted steps: one NaN cannot disable it and a spike cannot widen it.
class Guard {
 public:
  explicit Guard(const GuardConfig& config) : config_(config) {}

  // The reason to skip the step with this loss and gradient norm, "" to accept it. Counts and
  // remembers it. Error(diverged) after too many skipped steps in a row.
  std::string judge(int64_t step, double loss, double gradient_norm);
  // Counts a step that is skipped because its batch scores nothing: no trouble, so it neither
  // begins nor ends a row of skipped steps, and nothing enters the window.
  void count_empty() { ++skipped_; }

  int64_t skipped() const { return skipped_; }
  int64_t consecutive() const { return consecutive_; }
  size_t window_size() const { return losses_.size(); }

  // The state, as stored in a checkpoint; reading it back restores every bit.
  Json to_json() const;
  void from_json(const Json& state, const std::string& where);

 private:
  GuardConfig config_;
  std::deque<double> losses_;
  std::deque<double> norms_;
  int64_t skipped_ = 0;
  int64_t consecutive_ = 0;
};

}  // namespace osp
