#include "osp/ops/hadamard_field.h"

#include <algorithm>

#include "osp/base/error.h"

namespace osp {
namespace {

using Polynomial = std::vector<int64_t>;  // lowest coefficient first

int64_t integer_power(int64_t base, int64_t exponent) {
  int64_t value = 1;
  for (int64_t i = 0; i < exponent; ++i) value *= base;
  return value;
}

// The polynomial whose value at p is `number`, with `terms` coefficients.
Polynomial digits(int64_t number, int64_t p, int64_t terms) {
  Polynomial result;
  for (int64_t i = 0; i < terms; ++i, number /= p) result.push_back(number % p);
  return result;
}

int64_t number_of(const Polynomial& a, int64_t p) {
  int64_t number = 0;
  for (size_t i = a.size(); i-- > 0;) number = number * p + a[i];
  return number;
}

// a modulo the monic polynomial m, with deg m coefficients.
Polynomial remainder(Polynomial a, const Polynomial& m, int64_t p) {
  const size_t degree = m.size() - 1;
  for (size_t i = a.size(); i-- > degree;) {
    const int64_t lead = a[i];
    for (size_t j = 0; j <= degree; ++j) {
      a[i - degree + j] = (a[i - degree + j] + (p - lead) * m[j]) % p;
    }
  }
  a.resize(degree, 0);
  return a;
}

// Tried by division: no monic polynomial of at most half its degree divides it.
bool is_irreducible(const Polynomial& m, int64_t p) {
  const int64_t degree = static_cast<int64_t>(m.size()) - 1;
  for (int64_t lower = 1; 2 * lower <= degree; ++lower) {
    const int64_t count = integer_power(p, lower);
    for (int64_t number = 0; number < count; ++number) {
      const Polynomial left = remainder(m, digits(number + count, p, lower + 1), p);
      if (std::ranges::all_of(left, [](int64_t c) { return c == 0; })) return false;
    }
  }
  return true;
}

Polynomial find_irreducible(int64_t p, int64_t degree) {
  const int64_t count = integer_power(p, degree);
  for (int64_t number = 0; number < count; ++number) {
    const Polynomial m = digits(number + count, p, degree + 1);
    if (is_irreducible(m, p)) return m;
  }
  OSP_CHECK(false, "every finite field exists, but not of size {}^{}", p, degree);
}

}  // namespace

std::optional<PrimePower> prime_power(int64_t q) {
  if (q < 2) return std::nullopt;
  int64_t prime = 2;
  while (prime * prime <= q && q % prime != 0) ++prime;
  if (prime * prime > q) return PrimePower{q, 1};
  PrimePower power{prime, 0};
  for (; q % prime == 0; q /= prime) ++power.exponent;
  return q == 1 ? std::optional(power) : std::nullopt;
}

FiniteField::FiniteField(int64_t q) : size_(q) {
  const auto power = prime_power(q);
  OSP_CHECK(power.has_value() && power->prime > 2, "{} is no odd prime power", q);
  power_ = *power;
  modulus_ = find_irreducible(power_.prime, power_.exponent);
  character_.assign(static_cast<size_t>(q), -1);
  for (int64_t a = 0; a < q; ++a) character_[static_cast<size_t>(multiply(a, a))] = 1;
  character_[0] = 0;
}

int64_t FiniteField::subtract(int64_t a, int64_t b) const {
  const int64_t p = power_.prime;
  int64_t result = 0;
  for (int64_t place = 1; place < size_; place *= p, a /= p, b /= p) {
    result += place * ((a % p + p - b % p) % p);
  }
  return result;
}

int64_t FiniteField::multiply(int64_t a, int64_t b) const {
  const int64_t p = power_.prime, k = power_.exponent;
  const Polynomial x = digits(a, p, k), y = digits(b, p, k);
  Polynomial product(static_cast<size_t>(2 * k - 1), 0);
  for (size_t i = 0; i < x.size(); ++i) {
    for (size_t j = 0; j < y.size(); ++j) product[i + j] = (product[i + j] + x[i] * y[j]) % p;
  }
  return number_of(remainder(std::move(product), modulus_, p), p);
}

}  // namespace osp
