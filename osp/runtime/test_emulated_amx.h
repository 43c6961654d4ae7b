// AMX in plain C++, as Intel's manual describes the instructions, so that what is built on them is
// tested on every machine.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "osp/ops/isa.h"
#include "osp/runtime/wide_tiles.h"

namespace osp {

// The registers of a thread. Where the CPU raises an exception, a test fails.
class EmulatedTiles {
 public:
  static void configure(const kernels::TileConfig& config) {
    bool valid = config.palette == 1 && config.start_row == 0;
    for (const uint8_t byte : config.reserved) valid = valid && byte == 0;
    for (int t = 0; t < 16; ++t) {
      const int rows = config.rows[t], bytes = config.row_bytes[t];
      valid = valid && rows <= (t < 8 ? 16 : 0) && bytes <= (t < 8 ? 64 : 0);
      valid = valid && (rows == 0) == (bytes == 0);
    }
    EXPECT_TRUE(valid) << "#GP: LDTILECFG";
    EXPECT_FALSE(registers.configured) << "a thread left its tiles in use";
    registers = Registers();
    registers.configured = true;
    registers.config = config;
  }
  static void release() {
    EXPECT_TRUE(registers.configured) << "the tiles of a thread are released twice";
    registers = Registers();
  }
  template <int t>
  static void load(const void* memory, int64_t stride) {
    zero<t>();
    for (int r = 0; r < rows(t); ++r) {
      std::memcpy(registers.bytes[t][r], static_cast<const char*>(memory) + r * stride,
                  static_cast<size_t>(row_bytes(t)));
    }
  }
  template <int t>
  static void store(void* memory, int64_t stride) {
    expect_configured(t);
    for (int r = 0; r < rows(t); ++r) {
      std::memcpy(static_cast<char*>(memory) + r * stride, registers.bytes[t][r],
                  static_cast<size_t>(row_bytes(t)));
    }
  }
  template <int t>
  static void zero() {
    expect_configured(t);
    std::memset(registers.bytes[t], 0, sizeof registers.bytes[t]);
  }
  template <int c, int a, int b>
  static void multiply() {
    static_assert(c != a && c != b && a != b, "#UD: TDPBSUD");
    EXPECT_TRUE(rows(c) == rows(a) && row_bytes(c) == row_bytes(b) && row_bytes(a) == 4 * rows(b))
        << "#UD: TDPBSUD";
    for (int m = 0; m < rows(c); ++m) {
      int32_t sum[16];
      std::memcpy(sum, registers.bytes[c][m], sizeof sum);
      for (int k = 0; k < rows(b); ++k) {
        const auto* left = reinterpret_cast<const int8_t*>(registers.bytes[a][m]) + 4 * k;
        const uint8_t* right = registers.bytes[b][k];
        for (int n = 0; n < row_bytes(c) / 4; ++n, right += 4) {
          sum[n] +=
              left[0] * right[0] + left[1] * right[1] + left[2] * right[2] + left[3] * right[3];
        }
      }
      std::memcpy(registers.bytes[c][m], sum, sizeof sum);
    }
  }

 private:
  struct Registers {
    bool configured;
    kernels::TileConfig config;
    uint8_t bytes[8][16][64];
  };
  static inline thread_local Registers registers = {};

  static int rows(int t) { return registers.config.rows[t]; }
  static int row_bytes(int t) { return registers.config.row_bytes[t]; }
  static void expect_configured(int t) {
    EXPECT_TRUE(registers.configured && rows(t) > 0) << "#UD: tile " << t;
  }
};

// The portable level with AMX's products of many rows, emulated.
inline const kernels::CodeProducts& code_products_emulated_amx() {
  static const kernels::CodeProducts table = kernels::with_wide_tiles<EmulatedTiles>(
      kernels::code_products_portable(), "amx-int8, emulated");
  return table;
}

// Every level with products of many rows that runs here: the emulation, and AMX where the
// CPU has it.
inline std::vector<const kernels::CodeProducts*> wide_levels() {
  std::vector<const kernels::CodeProducts*> all = {&code_products_emulated_amx()};
  if (has_amx_int8()) all.push_back(&kernels::code_products_amx());
  return all;
}

}  // namespace osp
