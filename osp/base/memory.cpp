#include "osp/base/memory.h"

#include <sys/resource.h>

namespace osp {

namespace {

rusage usage_so_far() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage;
}

}  // namespace

int64_t peak_memory_bytes() {
  return int64_t(usage_so_far().ru_maxrss) * 1024;  // Linux counts in KiB
}

int64_t page_faults() {
  const rusage usage = usage_so_far();
  return int64_t(usage.ru_minflt) + int64_t(usage.ru_majflt);
}

}  // namespace osp
