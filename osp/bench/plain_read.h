// How fast one thread reads memory: what a product of one row, which streams the weights once,
// could reach at most.
//
// Without a test: its one number differs by machine.
#pragma once

#include "osp/runtime/aligned_memory.h"

namespace osp {

// Memory larger than any cache, all of it written.
AlignedMemory memory_to_read();

// Reads all of it with the widest loads of the CPU, fetching ahead.
void plain_read(const AlignedMemory& memory);

// Bytes a second of CPU time, the best of three.
double plain_read_rate();

}  // namespace osp
