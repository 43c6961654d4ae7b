// The memory that this process has used.
#pragma once

#include <cstdint>

namespace osp {

// The largest resident memory so far, in bytes.
int64_t peak_memory_bytes();

// The number of page faults so far. A program that reuses its memory causes none.
int64_t page_faults();

}  // namespace osp
