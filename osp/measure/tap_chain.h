// Several taps at the same points, one after the other: watchers in front of a replacer see what it
// gets, watchers behind it what it leaves.
//
// Tested by tests/python/test_analyze.py (watchers with quantizers) and osp/train/step_test.cpp.
#pragma once

#include <utility>
#include <vector>

#include "osp/model/tap.h"

namespace osp {

class TapChain : public Tap {
 public:
  // The taps must outlive the chain; null ones are left out.
  explicit TapChain(const std::vector<Tap*>& taps) {
    for (Tap* tap : taps) {
      if (tap != nullptr) taps_.push_back(tap);
    }
  }

  bool empty() const { return taps_.empty(); }

  bool wants(TapPoint point, int64_t layer) const override {
    for (const Tap* tap : taps_) {
      if (tap->wants(point, layer)) return true;
    }
    return false;
  }
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override {
    at::Tensor y = x;
    for (Tap* tap : taps_) {
      if (tap->wants(point, layer)) y = tap->at(point, layer, y);
    }
    return y;
  }
  bool wants_weights() const override {
    for (const Tap* tap : taps_) {
      if (tap->wants_weights()) return true;
    }
    return false;
  }
  at::Tensor weight(int64_t parameter, const at::Tensor& w) override {
    at::Tensor y = w;
    for (Tap* tap : taps_) {
      if (tap->wants_weights()) y = tap->weight(parameter, y);
    }
    return y;
  }
  bool wants_linear() const override {
    for (const Tap* tap : taps_) {
      if (tap->wants_linear()) return true;
    }
    return false;
  }
  void linear_input(std::span<const int64_t> parameters, const at::Tensor& x) override {
    for (Tap* tap : taps_) {
      if (tap->wants_linear()) tap->linear_input(parameters, x);
    }
  }
  void linear_output(int64_t parameter, const at::Tensor& y) override {
    for (Tap* tap : taps_) {
      if (tap->wants_linear()) tap->linear_output(parameter, y);
    }
  }
  void linear_output_gradient(int64_t parameter, const at::Tensor& dy) override {
    for (Tap* tap : taps_) {
      if (tap->wants_linear()) tap->linear_output_gradient(parameter, dy);
    }
  }

 private:
  std::vector<Tap*> taps_;
};

}  // namespace osp
