#include "osp/ops/hadamard_matrix.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <array>
#include <bit>
#include <string_view>

#include "osp/base/error.h"
#include "osp/ops/hadamard_field.h"

namespace osp {
namespace {

constexpr int64_t kLargestBaseInMessages = 200;

using Matrix = std::vector<int8_t>;

// First rows of four symmetric circulant matrices with A² + B² + C² + D² = 4 n I.
struct WilliamsonRows {
  int64_t order;
  std::array<std::string_view, 4> rows;
};
constexpr WilliamsonRows kWilliamson[] = {
    {39,
     {"+++--+-+-----+--++----++--+-----+-+--++", "+++--++-+---+-+--+----+--+-+---+-++--++",
      "++++---+--++----+-+--+-+----++--+---+++", "+---++-+-+-----+++-++-+++-----+-+-++---"}},
    {43,
     {"++---++++-+--+--++--------++--+--+-++++---+", "+++-+-++--+-+-++++-+----+-++++-+-+--++-+-++",
      "++-++++++----+-+--++-++-++--+-+----++++++-+",
      "+---++--++++-+-+++-++--++-+++-+-++++--++---"}},
};

bool has_paley_one(int64_t n) { return n % 4 == 0 && prime_power(n - 1).has_value(); }

bool has_paley_two(int64_t n) {
  return n % 4 == 0 && (n / 2 - 1) % 4 == 1 && prime_power(n / 2 - 1).has_value();
}

const WilliamsonRows* find_williamson(int64_t n) {
  for (const WilliamsonRows& entry : kWilliamson) {
    if (4 * entry.order == n) return &entry;
  }
  return nullptr;
}

bool has_base(int64_t n) {
  return n == 1 || has_paley_one(n) || has_paley_two(n) || find_williamson(n) != nullptr;
}

// I + S with S = [[0, 1], [−1, Q]] skew, Q_ij = χ(i − j).
Matrix paley_one(int64_t n) {
  const FiniteField field(n - 1);
  Matrix h(static_cast<size_t>(n * n), 1);
  for (int64_t i = 1; i < n; ++i) {
    h[i * n] = -1;
    for (int64_t j = 1; j < n; ++j) {
      if (i != j) h[i * n + j] = field.character(field.subtract(i - 1, j - 1));
    }
  }
  return h;
}

// C ⊗ [[1, 1], [1, −1]] + I ⊗ [[1, −1], [−1, −1]] with C = [[0, 1], [1, Q]] symmetric.
Matrix paley_two(int64_t n) {
  const int64_t half = n / 2;
  const FiniteField field(half - 1);
  Matrix h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < half; ++i) {
    for (int64_t j = 0; j < half; ++j) {
      const int8_t c = i == 0 || j == 0 ? int8_t{1} : field.character(field.subtract(i - 1, j - 1));
      int8_t* block = &h[2 * i * n + 2 * j];
      const bool diagonal = i == j;
      block[0] = diagonal ? int8_t{1} : c;
      block[1] = block[n] = diagonal ? int8_t{-1} : c;
      block[n + 1] = diagonal ? int8_t{-1} : static_cast<int8_t>(-c);
    }
  }
  return h;
}

// [[A, B, C, D], [−B, A, −D, C], [−C, D, A, −B], [−D, −C, B, A]].
Matrix williamson(const WilliamsonRows& entry) {
  static constexpr int kPart[4][4] = {{0, 1, 2, 3}, {1, 0, 3, 2}, {2, 3, 0, 1}, {3, 2, 1, 0}};
  static constexpr int kSign[4][4] = {{1, 1, 1, 1}, {-1, 1, -1, 1}, {-1, 1, 1, -1}, {-1, -1, 1, 1}};
  const int64_t part = entry.order, n = 4 * part;
  Matrix h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const int64_t row = i / part, column = j / part;
      const char sign = entry.rows[kPart[row][column]][(j % part + part - i % part) % part];
      h[i * n + j] = static_cast<int8_t>(sign == '+' ? kSign[row][column] : -kSign[row][column]);
    }
  }
  return h;
}

// Columns signed so that the first row is all ones.
Matrix with_first_row_of_ones(Matrix h, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    if (h[j] > 0) continue;
    for (int64_t i = 0; i < n; ++i) h[i * n + j] = static_cast<int8_t>(-h[i * n + j]);
  }
  return h;
}

Matrix base_matrix(int64_t n) {
  if (n == 1) return {1};
  if (has_paley_one(n)) return paley_one(n);  // has such a row
  if (has_paley_two(n)) return with_first_row_of_ones(paley_two(n), n);
  const WilliamsonRows* entry = find_williamson(n);
  OSP_CHECK(entry != nullptr, "no matrix of order {}", n);
  return with_first_row_of_ones(williamson(*entry), n);
}

}  // namespace

HadamardFactors hadamard_factors(int64_t n) {
  if (n < 1) return {};
  int64_t base = n;
  while (base % 2 == 0) base /= 2;
  for (; base <= n && base <= kLargestHadamardBase; base *= 2) {
    if (has_base(base)) return {n / base, base};
  }
  return {};
}

std::vector<int64_t> hadamard_bases(int64_t limit) {
  std::vector<int64_t> bases;
  for (int64_t n = 1; n <= limit; ++n) {
    if (hadamard_factors(n).blocks == 1) bases.push_back(n);
  }
  return bases;
}

void check_hadamard_size(int64_t size, const std::string& what) {
  if (hadamard_factors(size).blocks > 0) return;
  fail(ErrorCode::unsupported,
       "{} is {}: no Hadamard matrix of that size is known here; possible are powers of two times "
       "{} and others up to {}. Leave the part that needs it out (for keys and queries: a KV cache "
       "of 16 bits, for example 4-4-16)",
       what, size, fmt::join(hadamard_bases(kLargestBaseInMessages), ", "), kLargestHadamardBase);
}

std::vector<int8_t> hadamard_matrix(int64_t n) {
  check_hadamard_size(n, "the order");
  const auto [blocks, base] = hadamard_factors(n);
  const Matrix core = base_matrix(base);
  Matrix h(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const bool odd = std::popcount(static_cast<uint64_t>((i / base) & (j / base))) % 2 == 1;
      const int8_t entry = core[(i % base) * base + j % base];
      h[i * n + j] = odd ? static_cast<int8_t>(-entry) : entry;
    }
  }
  return h;
}

}  // namespace osp
