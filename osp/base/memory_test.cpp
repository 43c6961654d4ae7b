#include "osp/base/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vector>

namespace osp {
namespace {

TEST(Memory, EveryPageThatIsTouchedFirstIsOneFault) {
  const long page = sysconf(_SC_PAGESIZE);
  constexpr int64_t kPages = 512;
  const size_t bytes = size_t(kPages) * size_t(page);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  madvise(memory, bytes, MADV_NOHUGEPAGE);
  auto* data = static_cast<volatile char*>(memory);
  const auto touch = [&] {
    const int64_t before = page_faults();
    for (int64_t i = 0; i < kPages; ++i) data[i * page] = 1;
    return page_faults() - before;
  };
  EXPECT_GE(touch(), kPages);
  EXPECT_LT(touch(), kPages / 8);
  munmap(memory, bytes);
}

TEST(Memory, ThePeakCoversWhatIsHeld) {
  const int64_t before = peak_memory_bytes();
  EXPECT_GT(before, 1 << 20);
  std::vector<char> block(256 << 20, 1);
  EXPECT_GE(peak_memory_bytes(), int64_t(block.size()));
}

}  // namespace
}  // namespace osp
