#include "osp/formats/compressed_tensors.h"

#include "osp/base/error.h"

namespace osp {

int64_t packed_words(int64_t columns, int64_t bits) { return (columns * bits + 31) / 32; }

std::vector<int32_t> pack_codes(std::span<const int8_t> codes, int64_t rows, int64_t columns,
                                int64_t bits) {
  OSP_CHECK(bits >= 1 && bits <= 8, "{} bits", bits);
  OSP_CHECK(static_cast<int64_t>(codes.size()) == rows * columns, "{} codes for {} x {}",
            codes.size(), rows, columns);
  const int32_t offset = 1 << (bits - 1);
  const int64_t words_per_row = packed_words(columns, bits);
  std::vector<int32_t> words(static_cast<size_t>(rows * words_per_row));
  for (int64_t row = 0; row < rows; ++row) {
    int32_t* out = words.data() + row * words_per_row;
    uint64_t pending = 0;  // bits not yet written
    int64_t num_pending = 0;
    for (int64_t i = 0; i < columns; ++i) {
      const int32_t code = codes[static_cast<size_t>(row * columns + i)] + offset;
      OSP_CHECK(code >= 0 && code < 2 * offset, "code {} of {} bits", code - offset, bits);
      pending |= static_cast<uint64_t>(code) << num_pending;
      num_pending += bits;
      if (num_pending >= 32) {
        *out++ = static_cast<int32_t>(static_cast<uint32_t>(pending));
        pending >>= 32;
        num_pending -= 32;
      }
    }
    if (num_pending > 0) *out = static_cast<int32_t>(static_cast<uint32_t>(pending));
  }
  return words;
}

std::vector<int8_t> unpack_codes(std::span<const int32_t> words, int64_t rows, int64_t columns,
                                 int64_t bits) {
  OSP_CHECK(bits >= 1 && bits <= 8, "{} bits", bits);
  const int64_t words_per_row = packed_words(columns, bits);
  OSP_CHECK(static_cast<int64_t>(words.size()) == rows * words_per_row, "{} words for {} x {}",
            words.size(), rows, columns);
  const int32_t offset = 1 << (bits - 1);
  const uint64_t mask = (uint64_t{1} << bits) - 1;
  std::vector<int8_t> codes(static_cast<size_t>(rows * columns));
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* in = words.data() + row * words_per_row;
    uint64_t pending = 0;
    int64_t num_pending = 0;
    for (int64_t i = 0; i < columns; ++i) {
      if (num_pending < bits) {
        pending |= static_cast<uint64_t>(static_cast<uint32_t>(*in++)) << num_pending;
        num_pending += 32;
      }
      const int32_t code = static_cast<int32_t>(pending & mask) - offset;
      codes[static_cast<size_t>(row * columns + i)] = static_cast<int8_t>(code);
      pending >>= bits;
      num_pending -= bits;
    }
  }
  return codes;
}

std::vector<uint8_t> pack_nibbles(std::span<const int8_t> codes) {
  OSP_CHECK(codes.size() % 2 == 0, "{} codes do not fill bytes", codes.size());
  std::vector<uint8_t> bytes(codes.size() / 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    // A negative code becomes one beyond 15.
    const int low = static_cast<uint8_t>(codes[2 * i]),
              high = static_cast<uint8_t>(codes[2 * i + 1]);
    OSP_CHECK((low | high) < 16, "codes {} and {} of four bits", low, high);
    bytes[i] = static_cast<uint8_t>(low | high << 4);
  }
  return bytes;
}

std::vector<int8_t> unpack_nibbles(std::span<const uint8_t> bytes) {
  std::vector<int8_t> codes(bytes.size() * 2);
  for (size_t i = 0; i < bytes.size(); ++i) {
    codes[2 * i] = static_cast<int8_t>(bytes[i] & 15);
    codes[2 * i + 1] = static_cast<int8_t>(bytes[i] >> 4);
  }
  return codes;
}

}  // namespace osp
