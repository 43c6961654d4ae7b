// Waiting for what another machine has written.
#pragma once

#include <chrono>
#include <functional>

namespace osp {

// Looks until `condition` is true, for at most `most`: file systems over a network may show what
// another machine has written after a while. Returns whether it became true.
bool comes_true(const std::function<bool()>& condition,
                std::chrono::milliseconds most = std::chrono::seconds(5));

}  // namespace osp
