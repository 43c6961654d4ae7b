#include "osp/bench/op_profile.h"

#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>
#include <map>

#include "osp/base/error.h"
#include "osp/base/timing.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;

// The callbacks are plain functions, so their sums are global to the thread.
thread_local std::map<std::string, OpTime> times_by_name;
thread_local bool exists = false;

// An operator that has begun and not ended.
struct Running : at::ObserverContext {
  Clock::time_point start = Clock::now();
  Running* outer = nullptr;
  double inside = 0;  // seconds of operators within it
};

thread_local Running* innermost = nullptr;

std::unique_ptr<at::ObserverContext> begins(const at::RecordFunction& /*function*/) {
  auto running = std::make_unique<Running>();
  running->outer = innermost;
  innermost = running.get();
  return running;
}

void ends(const at::RecordFunction& function, at::ObserverContext* context) {
  const Running& running = *static_cast<Running*>(context);
  const double seconds = seconds_since(running.start);
  innermost = running.outer;
  if (innermost != nullptr) innermost->inside += seconds;
  OpTime& time = times_by_name[function.name()];
  ++time.calls;
  time.seconds += seconds - running.inside;
}

}  // namespace

OpProfile::OpProfile() {
  OSP_CHECK(!exists, "two profiles at a time");
  exists = true;
  times_by_name.clear();
  handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(begins, ends));
}

OpProfile::~OpProfile() {
  at::removeCallback(handle_);
  exists = false;
}

std::vector<OpTime> OpProfile::times() const {
  std::vector<OpTime> times;
  for (const auto& [name, time] : times_by_name) {
    times.push_back({name, time.calls, time.seconds});
  }
  std::sort(times.begin(), times.end(),
            [](const OpTime& a, const OpTime& b) { return a.seconds > b.seconds; });
  return times;
}

}  // namespace osp
