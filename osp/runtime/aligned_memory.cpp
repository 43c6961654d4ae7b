#include "osp/runtime/aligned_memory.h"

#include <sys/mman.h>

#include "osp/base/error.h"

namespace osp {

AlignedMemory::AlignedMemory(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    fail(ErrorCode::io, "out of memory: {:.1f} MB more are needed",
         static_cast<double>(bytes) * 1e-6);
  }
  ::madvise(memory, bytes, MADV_HUGEPAGE);  // where it is refused, small pages do
  data_ = static_cast<uint8_t*>(memory);
}

AlignedMemory::~AlignedMemory() {
  if (data_ != nullptr) ::munmap(data_, bytes_);
}

}  // namespace osp
