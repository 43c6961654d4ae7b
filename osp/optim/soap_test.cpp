#include "osp/optim/soap.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "osp/optim/config.h"
#include "osp/optim/decompositions.h"
#include "osp/optim/test_banks.h"

namespace osp {
namespace {

const OptimizerGroup kSoapGroup{.name = "soap", .optimizer = &kSoapRow};

StepValues soap_values(int64_t step) {
  return {.step = step, .lr = 0.01, .weight_decay = 0.1, .measure = true};
}

// A twin in fp64 for matrix i, which has seen the first gradient and has the optimizer's bases.
SoapMatrix twin_after_first(const Optimizer& optimizer, int64_t i) {
  const auto states = states_by_last_name(optimizer);
  const auto copy = [&](const char* name) { return states.at(name)[i].to(at::kDouble); };
  return {copy("mean"),
          copy("square"),
          copy("left_factor"),
          copy("left_basis"),
          copy("right_factor"),
          copy("right_basis"),
          1};
}

TEST(Soap, ThirtyStepsEqualTheTwinForEveryShape) {
  // After seven updates every factor has full rank, so that orthogonal iteration has one result.
  const OptimConfig config{.adam = {.beta1 = 0.95}, .precondition_every = 7};
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{3, 12, 20}, {2, 20, 12}, {2, 1, 6}, {2, 6, 1}}) {
    Bank bank = random_bank("soap", shape);
    const at::Tensor start = bank.master.clone();
    auto soap = kSoapRow.make({&bank}, kSoapGroup, config);
    soap->step(soap_values(1));
    EXPECT_TRUE(at::equal(bank.master, start)) << "the first gradient only makes the bases";
    EXPECT_EQ(soap->last_update_norm(), 0);
    std::vector<SoapMatrix> twins;
    std::vector<at::Tensor> weights;
    for (int64_t i = 0; i < shape[0]; ++i) {
      twins.push_back(twin_after_first(*soap, i));
      weights.push_back(bank.master[i].to(at::kDouble));
    }
    for (int64_t step = 2; step <= 30; ++step) {
      bank.gradient.copy_(random_tensor(shape, "soap", step));
      const at::Tensor before = bank.master.clone();
      soap->step(soap_values(step));
      const double moved = norm_of(bank.master - before);
      EXPECT_NEAR(soap->last_update_norm(), moved, 1e-5 * moved);
      for (size_t i = 0; i < twins.size(); ++i) {
        const at::Tensor gradient = bank.gradient[int64_t(i)].to(at::kDouble);
        soap_step_reference(weights[i], gradient, twins[i], soap_values(step), config);
      }
    }
    for (size_t i = 0; i < twins.size(); ++i) {
      // fp32 rounds weights near 1 by 6e-8 a step, against steps of 0.01; bases turned in fp32 err
      // by less.
      const double way = norm_of(weights[i] - start[int64_t(i)]);
      EXPECT_LT(norm_of(bank.master[int64_t(i)] - weights[i]), 3e-5 * way)
          << shape[1] << " x " << shape[2];
    }
    EXPECT_EQ(states_by_last_name(*soap).at("failures").item<int64_t>(), 0);
  }
}

TEST(Soap, TheFirstBasesAreEigenvectorsByFallingValue) {
  Bank bank = random_bank("basis", {2, 16, 9});
  auto soap = kSoapRow.make({&bank}, kSoapGroup, {});
  soap->step(soap_values(1));
  const auto states = states_by_last_name(*soap);
  for (const std::string side : {"left", "right"}) {
    for (int64_t i = 0; i < 2; ++i) {
      const at::Tensor basis = states.at(side + "_basis")[i];
      const at::Tensor turned =
          at::matmul(basis.t(), at::matmul(states.at(side + "_factor")[i], basis));
      const at::Tensor values = turned.diag();
      // fp32 eigenvectors: off-diagonal rests of a few 1e-7 of the largest value.
      const double largest = values.max().item<double>();
      EXPECT_LT((turned - values.diag()).abs().max().item<double>(), 1e-5 * largest);
      EXPECT_LT(values.diff().max().item<double>(), 1e-5 * largest);
    }
  }
}

TEST(Soap, WithoutBasesItIsAdamOneStepLater) {
  Bank bank = random_bank("plain", {2, 6, 8});
  const OptimConfig config{.soap = {.largest_basis = 1}};
  auto soap = kSoapRow.make({&bank}, kSoapGroup, config);
  at::Tensor weight = bank.master.clone();
  at::Tensor mean = at::zeros({2, 6, 8}), square = at::zeros({2, 6, 8});
  soap->step(soap_values(1));
  for (int64_t t = 1; t <= 10; ++t) {
    bank.gradient.copy_(random_tensor({2, 6, 8}, "plain", t));
    soap->step(soap_values(t + 1));
    mean.lerp_(bank.gradient, 1 - config.adam.beta1);
    square.lerp_(bank.gradient.square(), 1 - config.adam.beta2);
    const at::Tensor root =
        (square / (1 - std::pow(config.adam.beta2, t))).sqrt() + config.adam.eps;
    weight.mul_(1 - 0.01 * 0.1).sub_(mean / (1 - std::pow(config.adam.beta1, t)) / root * 0.01);
  }
  // fp32 roundings of weights near 1.
  EXPECT_LT((bank.master - weight).abs().max().item<double>(), 2e-6);
  EXPECT_EQ(soap->state().size(), 4u);
}

TEST(Soap, ALongSideKeepsItsCoordinates) {
  Bank bank = random_bank("long", {2, 6, 30});
  auto soap = kSoapRow.make({&bank}, kSoapGroup, {.soap = {.largest_basis = 10}});
  for (int64_t step = 1; step <= 25; ++step) soap->step(soap_values(step));
  const auto states = states_by_last_name(*soap);
  EXPECT_TRUE(states.contains("left_basis"));
  EXPECT_FALSE(states.contains("right_basis"));
}

TEST(Soap, ABasisThatIsNotFiniteIsNotTakenAndIsCounted) {
  Bank bank = random_bank("failure", {2, 6, 8});
  auto soap = kSoapRow.make({&bank}, kSoapGroup, {.precondition_every = 3});
  for (int64_t step = 1; step <= 3; ++step) soap->step(soap_values(step));
  const auto states = states_by_last_name(*soap);
  const at::Tensor before = states.at("left_basis").clone();
  states.at("left_factor")[1].fill_(std::numeric_limits<double>::quiet_NaN());
  soap->step(soap_values(4));
  EXPECT_EQ(states.at("failures").item<int64_t>(), 1);
  EXPECT_FALSE(at::equal(states.at("left_basis")[0], before[0]));
  EXPECT_TRUE(at::equal(states.at("left_basis")[1], before[1]));
  soap->step(soap_values(5));
  EXPECT_TRUE(all_finite(bank.master));
}

TEST(Soap, BasesStayOrthonormal) {
  Bank bank = random_bank("orthonormal", {1, 20, 20});
  auto soap = kSoapRow.make({&bank}, kSoapGroup, {.precondition_every = 1});
  for (int64_t step = 1; step <= 50; ++step) {
    bank.gradient.copy_(random_tensor({1, 20, 20}, "orthonormal", step));
    soap->step(soap_values(step));
  }
  const at::Tensor basis = states_by_last_name(*soap).at("right_basis")[0];
  // Each turn makes it anew: the error of one fp32 orthogonalisation.
  EXPECT_LT(norm_of(at::matmul(basis.t(), basis) - at::eye(20)), 1e-5);
}

TEST(Soap, ResumesBitForBitAtEveryStep) {
  expect_bit_exact_resume({3, 9, 11}, [](Bank& bank) {
    return kSoapRow.make({&bank}, kSoapGroup, {.precondition_every = 3});
  });
}

}  // namespace
}  // namespace osp
