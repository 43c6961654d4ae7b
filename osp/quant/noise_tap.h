// The noise that round-to-nearest would add at every point that has a quantizer, measured on what
// passes there while the model runs as it does: nothing is replaced.
//
// With x a group of the point's grid (a token; at keys, values and the input of o a head of it;
// keys after their Hadamard, the input of down after its own where the model has one) and Q the
// grid of FakeQuantTap at `bits` bits:
//
//   SQNR            10 lg(Σ x² / Σ (Q(x) − x)²)            over all numbers
//   SQNR per token  −10 lg(mean of Σ (Q(x) − x)² / Σ x²)   the mean over groups: every one counts
//   predicted       10 lg(Σ x² / Σ n · step² / 12)         uniform errors within a step; n numbers
//
// The prediction is too low where a step is so wide that most numbers round to 0 with an error of
// their own size.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "osp/model/parameters.h"
#include "osp/quant/fake_quant.h"

namespace osp {

struct QuantizationNoise {
  double signal = 0, noise = 0, predicted_noise = 0;
  double relative_noise = 0;  // Σ over groups of noise / signal
  int64_t groups = 0;         // those with a signal

  double sqnr_db() const;
  double sqnr_per_token_db() const;
  double predicted_sqnr_db() const;
};

class NoiseTap : public Tap {
 public:
  // `store` must outlive the tap.
  NoiseTap(const ParameterStore& store, int64_t bits, const OnlineTransforms& online);

  bool wants(TapPoint point, int64_t layer) const override;
  at::Tensor at(TapPoint point, int64_t layer, const at::Tensor& x) override;

  const std::map<std::pair<TapPoint, int64_t>, QuantizationNoise>& noise() const { return noise_; }

 private:
  int64_t bits_, head_size_;
  FakeQuantTap transforms_;  // Hadamards without quantizers
  FakeQuantTap quantizers_;
  bool key_hadamard_;
  std::map<std::pair<TapPoint, int64_t>, QuantizationNoise> noise_;
};

}  // namespace osp
