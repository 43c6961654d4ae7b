#include "osp/base/patience.h"

#include <thread>

namespace osp {

bool comes_true(const std::function<bool()>& condition, std::chrono::milliseconds most) {
  constexpr std::chrono::milliseconds kBetweenLooks{50};
  const auto until = std::chrono::steady_clock::now() + most;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::sleep_for(kBetweenLooks);
  }
  return true;
}

}  // namespace osp
