// Random banks for the tests of this folder.
#pragma once

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>

#include <string>
#include <vector>

#include "osp/base/philox.h"
#include "osp/model/parameters.h"

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

}  // namespace osp
