// Hadamard matrices: entries ±1 with H Hᵀ = n I, for n = 2^k · m with a known matrix of order m.
//
//   Sylvester   H_2n = [[H_n, H_n], [H_n, −H_n]], so H = H_{2^k} ⊗ H_m
//   Paley I     m = q + 1, q a prime power, q ≡ 3 (mod 4)
//   Paley II    m = 2 (q + 1), q a prime power, q ≡ 1 (mod 4)
//   Williamson  m = 156 and 172, from four symmetric circulant matrices each
//
// Sources: Paley, "On orthogonal matrices", 1933; Williamson, "Hadamard's determinant theorem and
// the sum of four squares", 1944; the rows of order 39 and 43 as listed by Holzmann, Kharaghani and
// Tayfeh-Rezaie, "Williamson matrices up to order 59", 2008.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace osp {

// Largest order of a matrix that is not doubled.
inline constexpr int64_t kLargestHadamardBase = 1024;

// n = blocks · base: the smallest base for which a matrix is known and blocks is a power of two.
struct HadamardFactors {
  int64_t blocks = 0;  // 0: none is known
  int64_t base = 0;
};
HadamardFactors hadamard_factors(int64_t n);

// Every base that hadamard_factors() can return, up to `limit`.
std::vector<int64_t> hadamard_bases(int64_t limit = kLargestHadamardBase);

// Error(unsupported) naming `what`, its size and the possible sizes, unless a matrix is known.
void check_hadamard_size(int64_t size, const std::string& what);

// The matrix in row order, entry (i, j) at i · n + j; its first row is all ones. Costs n² steps.
// Errors as check_hadamard_size.
std::vector<int8_t> hadamard_matrix(int64_t n);

}  // namespace osp
