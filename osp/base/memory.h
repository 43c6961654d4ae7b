// What this process has taken of the machine's memory.
#pragma once

#include <cstdint>

namespace osp {

// The largest memory that it has held so far, resident, in bytes.
int64_t peak_memory_bytes();

}  // namespace osp
