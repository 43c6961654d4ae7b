// Single items of benchmarks (osp eval --save-items), and two numbers of bits compared on the same
// items: the error of a difference of two scores is that of the items' differences, which is
// smaller than that of two independent scores.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace osp {

// The items of one task of one model at some bits, in order.
struct TaskItems {
  std::string bits;
  std::string task;
  std::vector<int64_t> index;
  std::vector<uint8_t> correct;   // 0 or 1
  std::vector<size_t> questions;  // hashes of what was asked
};

// Two lists of the same items, pair by pair.
struct PairedScores {
  double items = 0;
  double before = 0, after = 0;  // shares of right answers
  double error = 0;              // standard error of after - before, from the items' differences
  double lost = 0, gained = 0;   // items right before and wrong after, and the other way round
  double mcnemar = 1;            // exact two-sided p: lost and gained are equally likely
};

bool same_items(const TaskItems& a, const TaskItems& b);

// Items must be the same.
PairedScores compare_items(const TaskItems& before, const TaskItems& after);

// The exact two-sided p of McNemar's test: 2 P(X <= min) for X ~ Binomial(lost + gained, 1/2), at
// most 1.
double mcnemar_p(double lost, double gained);

}  // namespace osp
