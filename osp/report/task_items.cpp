#include "osp/report/task_items.h"

#include <algorithm>
#include <cmath>

#include "osp/base/error.h"

namespace osp {

bool same_items(const TaskItems& a, const TaskItems& b) {
  return a.task == b.task && a.index == b.index && a.questions == b.questions;
}

double mcnemar_p(double lost, double gained) {
  const double n = lost + gained, least = std::min(lost, gained);
  double p = 0;
  for (double k = 0; k <= least; ++k) {
    p += std::exp(std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) -
                  n * std::log(2.0));
  }
  return std::min(1.0, 2 * p);
}

PairedScores compare_items(const TaskItems& before, const TaskItems& after) {
  OSP_CHECK(same_items(before, after), "other items of {}", before.task);
  PairedScores scores;
  const auto n = static_cast<double>(before.correct.size());
  scores.items = n;
  for (size_t i = 0; i < before.correct.size(); ++i) {
    scores.before += before.correct[i] / n;
    scores.after += after.correct[i] / n;
    scores.lost += before.correct[i] > after.correct[i] ? 1 : 0;
    scores.gained += before.correct[i] < after.correct[i] ? 1 : 0;
  }
  // The differences are −1, 0 and 1.
  const double mean = (scores.gained - scores.lost) / n;
  const double squares = scores.gained + scores.lost - n * mean * mean;
  scores.error = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0;
  scores.mcnemar = mcnemar_p(scores.lost, scores.gained);
  return scores;
}

}  // namespace osp
