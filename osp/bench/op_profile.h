// Where the time of a training step goes, operator by operator.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace osp {

// Time of one operator without that of the operators inside it.
struct OpTime {
  std::string name;  // "aten::mm", "osp::attention"
  int64_t calls = 0;
  double seconds = 0;
};

// Times the tensor library's operators, and our own with a RECORD_USER_SCOPE, from its construction
// to its destruction, in the thread that made it. That thread calls the operators, also in the
// backward pass on the CPU; the work of other threads for an operator is within its time. Only one
// profile may exist at a time. It costs about a microsecond per call.
class OpProfile {
 public:
  OpProfile();
  ~OpProfile();
  OpProfile(const OpProfile&) = delete;
  OpProfile& operator=(const OpProfile&) = delete;

  // Times of the operators that have ended so far, the most expensive first.
  std::vector<OpTime> times() const;

 private:
  uint64_t handle_ = 0;
};

}  // namespace osp
