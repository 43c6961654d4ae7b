// Finite fields GF(p^k), as far as Paley's constructions of Hadamard matrices need them:
// differences of elements and the quadratic character.
//
// An element is a polynomial of degree below k over the integers modulo p; its number is the
// polynomial's value at p with coefficients 0 … p − 1, so 0 is zero and 1 is one.
//
// Tested by osp/ops/hadamard_matrix_test.cpp.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace osp {

struct PrimePower {
  int64_t prime = 0;
  int64_t exponent = 0;
};

// q as a power of one prime, or nothing.
std::optional<PrimePower> prime_power(int64_t q);

class FiniteField {
 public:
  // GF(q), q an odd prime power.
  explicit FiniteField(int64_t q);

  int64_t size() const { return size_; }
  int64_t subtract(int64_t a, int64_t b) const;
  int64_t multiply(int64_t a, int64_t b) const;
  // 0 for zero, 1 for the square of another element, −1 for the rest.
  int8_t character(int64_t a) const { return character_[a]; }

 private:
  int64_t size_;
  PrimePower power_;
  std::vector<int64_t> modulus_;  // irreducible, monic, lowest coefficient first
  std::vector<int8_t> character_;
};

}  // namespace osp
