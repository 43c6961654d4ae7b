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

// Listens to the tensor library's operators, and to our own where they announce themselves
// (RECORD_USER_SCOPE), in its thread from its construction to its destruction. That is the thread
// which calls them, a CPU's backward pass included; what others do for an operator is in its time.
// One at a time exists. Costs about a microsecond a call.
class OpProfile {
 public:
  OpProfile();
  ~OpProfile();
  OpProfile(const OpProfile&) = delete;
  OpProfile& operator=(const OpProfile&) = delete;

  // Of what has ended so far, the most expensive first.
  std::vector<OpTime> times() const;

 private:
  uint64_t handle_ = 0;
};

}  // namespace osp
