#include "osp/base/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <stdexcept>
#include <vector>

#include "osp/base/test_error.h"

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

TEST(Memory, WhatExceedsTheMachineIsRefusedWithBothNumbers) {
  const int64_t limit = memory_limit_bytes();
  EXPECT_GT(limit, 1 << 20);
  EXPECT_LE(free_memory_bytes(), limit);
  EXPECT_GT(resident_memory_bytes(), 1 << 20);
  require_memory(static_cast<double>(limit), "work", "advice");
  expect_error(ErrorCode::memory, {"work needs about 1000000.00 TB", "this machine has", "advice"},
               [] { require_memory(1e18, "work", "advice"); });
}

TEST(Memory, AnAllocationThatFailsIsTold) {
  EXPECT_TRUE(is_out_of_memory(std::bad_alloc()));
  EXPECT_TRUE(is_out_of_memory(std::runtime_error(
      "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory")));
  EXPECT_FALSE(is_out_of_memory(std::runtime_error("a file is missing")));
  EXPECT_NE(out_of_memory_text().find("this machine has"), std::string::npos);
}

TEST(Memory, ThePeakCoversWhatIsHeld) {
  const int64_t before = peak_memory_bytes();
  EXPECT_GT(before, 1 << 20);
  std::vector<char> block(256 << 20, 1);
  EXPECT_GE(peak_memory_bytes(), int64_t(block.size()));
}

}  // namespace
}  // namespace osp
