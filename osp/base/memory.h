// Memory: what this process has used, what there is, and what to say when it does not suffice.
#pragma once

#include <cstdint>
#include <exception>
#include <string>

namespace osp {

// The largest resident memory so far, in bytes.
int64_t peak_memory_bytes();

// The resident memory now, in bytes.
int64_t resident_memory_bytes();

// The number of page faults so far. A program that reuses its memory causes none.
int64_t page_faults();

// The machine's memory with swap, or the smaller limit of this process's control group: what this
// process and others share.
int64_t shared_memory_bytes();

// The memory that this process can have: shared_memory_bytes(), or the smaller limit of the process
// (ulimit -v, -d).
int64_t memory_limit_bytes();

// The part of the machine's memory that no process needs now, at most what memory_limit_bytes()
// leaves beside what this process holds.
int64_t free_memory_bytes();

// Error(memory) if `bytes` exceed memory_limit_bytes(): "WORK needs about 40.00 GB of memory, and
// this machine has 23.00 GB: ADVICE". `how_sure`: "about", or "at least" of a lower bound.
void require_memory(double bytes, const std::string& work, const std::string& advice,
                    const std::string& how_sure = "about");

// True if an exception says that memory could not be had: std::bad_alloc or that of the
// tensor library.
bool is_out_of_memory(const std::exception& error);

// One sentence for people about such an exception: what the process holds and the machine has.
std::string out_of_memory_text();

}  // namespace osp
