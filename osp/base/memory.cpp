#include "osp/base/memory.h"

#include <sys/resource.h>

namespace osp {

int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t(usage.ru_maxrss) * 1024;  // Linux counts in KiB
}

}  // namespace osp
