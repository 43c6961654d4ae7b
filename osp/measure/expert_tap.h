// Kurtosis of the inputs of every expert's layers, and the tokens that it gets.
//
// Rows are those that the experts' linear layers read: behind the quantizers of a model
// that has any.
//
// Tested by expert_tap_test.cpp and tests/python/test_experts.py.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <span>
#include <utility>

#include "osp/measure/rows.h"
#include "osp/model/parameters.h"
#include "osp/model/tap.h"

namespace osp {

struct ExpertStatistics {
  int64_t tokens = 0;       // that passed the expert
  KurtosisMean input;       // excess kurtosis of rows at the input of gate and up
  KurtosisMean down_input;  // and of down
};

// By (block, expert). Every expert of a model has an entry, also those without tokens.
using StatisticsByExpert = std::map<std::pair<int64_t, int64_t>, ExpertStatistics>;

class ExpertTap : public Tap {
 public:
  // `store` must outlive the tap.
  explicit ExpertTap(const ParameterStore& store);

  bool wants(TapPoint, int64_t) const override { return false; }
  at::Tensor at(TapPoint, int64_t, const at::Tensor& x) override { return x; }
  bool wants_linear() const override { return !experts_.empty(); }
  void linear_input(std::span<const int64_t> parameters, const at::Tensor& x) override;

  const StatisticsByExpert& experts() const { return experts_; }

 private:
  const ParameterStore& store_;
  StatisticsByExpert experts_;
};

}  // namespace osp
