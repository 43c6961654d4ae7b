#include "osp/ops/log_probabilities.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Generator.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

namespace osp {
namespace {

// A few likely tokens and many unlikely ones, as in a language model.
at::Tensor some_logits() {
  at::Generator random = at::make_generator<at::CPUGeneratorImpl>(uint64_t{5});
  at::Tensor logits = at::randn({64, 49152}, random, at::kFloat).mul_(2.5).sub_(3.0);
  logits.select(1, 100).add_(14.0);
  logits.select(1, 40000).add_(12.0);
  return logits;
}

TEST(LogProbabilities, AreThoseOfFp64OnALargeVocabulary) {
  const at::Tensor logits = some_logits();
  const at::Tensor exact = at::log_softmax(logits.to(at::kDouble), -1);
  const at::Tensor error = log_probabilities(logits).to(at::kDouble).sub(exact);
  EXPECT_LT(error.abs().max().item<double>(), 4e-6);
  EXPECT_LT(std::abs(error.mean().item<double>()), 2e-7);
}

TEST(LogProbabilities, InfiniteAndMissingNumbersStay) {
  at::Tensor logits = some_logits().narrow(0, 0, 2).clone();
  logits[0][7] = -INFINITY;
  logits[1][7] = NAN;
  const at::Tensor log_p = log_probabilities(logits);
  EXPECT_EQ(log_p[0][7].item<float>(), -INFINITY);
  EXPECT_TRUE(std::isfinite(log_p[0][8].item<float>()));
  EXPECT_TRUE(std::isnan(log_p[1][8].item<float>()));
}

}  // namespace
}  // namespace osp
