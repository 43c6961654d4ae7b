// Random banks for the tests of this folder.
#pragma once

#include <ATen/ops/equal.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "osp/base/philox.h"
#include "osp/model/parameters.h"
#include "osp/optim/optimizer.h"

namespace osp {

// fp32 standard normal, a pure function of (name, seed).
inline at::Tensor random_tensor(std::vector<int64_t> shape, const std::string& name,
                                uint64_t seed = 0) {
  at::Tensor out = at::zeros(shape, at::kFloat);
  RandomStream(seed, name)
      .fill_normal({out.data_ptr<float>(), static_cast<size_t>(out.numel())}, 0, 1);
  return out;
}

inline Bank random_bank(const std::string& name, std::vector<int64_t> shape,
                        ParameterKind kind = ParameterKind::matrix) {
  Bank bank;
  bank.name = name;
  bank.kind = kind;
  bank.master = random_tensor(shape, name + " master");
  bank.gradient = random_tensor(shape, name + " gradient");
  bank.compute = bank.master;
  return bank;
}

// Euclidean norm of all elements.
inline double norm_of(const at::Tensor& x) { return at::linalg_vector_norm(x).item<double>(); }

// State tensors by the last part of their names, for an optimizer over one bank.
inline std::map<std::string, at::Tensor> states_by_last_name(const Optimizer& optimizer) {
  std::map<std::string, at::Tensor> states;
  for (const auto& [name, tensor] : optimizer.state()) {
    states[name.substr(name.rfind('.') + 1)] = tensor;
  }
  return states;
}

// Trains a bank of that shape and, at each step, another one with a copy of its weights and state:
// both must have the same bits after the step. `make(bank)` makes the optimizer;
// `take_step(optimizer, bank, step)` sets the gradient and steps.
template <class Make, class TakeStep>
void expect_bit_exact_resume(const std::vector<int64_t>& shape, const Make& make,
                             const TakeStep& take_step) {
  Bank through = random_bank("resume", shape);
  const std::unique_ptr<Optimizer> optimizer = make(through);
  for (int64_t step = 1; step <= 6; ++step) {
    Bank resumed = random_bank("resume", shape);
    resumed.master.copy_(through.master);
    const std::unique_ptr<Optimizer> other = make(resumed);
    for (size_t i = 0; i < optimizer->state().size(); ++i) {
      EXPECT_EQ(other->state()[i].first, optimizer->state()[i].first);
      other->state()[i].second.copy_(optimizer->state()[i].second.clone());
    }
    take_step(*optimizer, through, step);
    take_step(*other, resumed, step);
    EXPECT_TRUE(at::equal(through.master, resumed.master)) << step;
    for (size_t i = 0; i < optimizer->state().size(); ++i) {
      EXPECT_TRUE(at::equal(optimizer->state()[i].second, other->state()[i].second))
          << optimizer->state()[i].first << " after step " << step;
    }
  }
}

// Trains as above with random gradients.
template <class Make>
void expect_bit_exact_resume(const std::vector<int64_t>& shape, const Make& make) {
  expect_bit_exact_resume(shape, make, [&](Optimizer& optimizer, Bank& bank, int64_t step) {
    bank.gradient.copy_(random_tensor(shape, "resume", uint64_t(step)));
    optimizer.step({.step = step, .lr = 0.01, .weight_decay = 0.1});
  });
}

}  // namespace osp
