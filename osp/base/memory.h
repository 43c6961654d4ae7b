// What this process has taken of the machine's memory.
#pragma once

#include <cstdint>

namespace osp {

// The largest memory that it has held so far, resident, in bytes.
int64_t peak_memory_bytes();

// How often it has been given a page of memory so far. A program that reuses what it holds is given
// none.
int64_t page_faults();

}  // namespace osp
