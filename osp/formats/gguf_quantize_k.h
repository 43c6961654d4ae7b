// Blocks of 256 values as Q4_K and Q6_K, for gguf_quantize.h, which says how they are fitted.
//
// Tested by gguf_quantize_test.cpp.
#pragma once

#include <cstdint>

namespace osp {

// 144 bytes: x ≈ (d s_p) q − (dmin m_p), q of 4 bits, s_p and m_p of 6 bits for each part of 32.
void gguf_quantize_q4_k(const float* values, uint8_t* block);
// 210 bytes: x ≈ (d s_p) q, q from −32 to 31, s_p of 8 bits for each part of 16.
void gguf_quantize_q6_k(const float* values, uint8_t* block);

}  // namespace osp
