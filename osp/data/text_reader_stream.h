// Bytes of a file in order, whatever it is packed in: plain, gzip (also dictzip's .dz) or zstd.
//
// Tested by osp/data/text_reader_test.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace osp {

enum class Compression { none, gzip, zstd };

// Sequential reader with constant memory. Several gzip members or zstd frames in a row are one
// stream, as with the command-line tools.
class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Up to `size` bytes; 0 only at the end. Error(io), or Error(damaged) naming the file and the
  // place in it if the compressed data is truncated or corrupt.
  virtual size_t read(char* out, size_t size) = 0;
  // Bytes of the file itself that have been used, for progress.
  virtual uint64_t file_bytes_read() const = 0;
};

// `path` is a file, or one of an object store (osp/data/object_store.h).
std::unique_ptr<ByteStream> open_byte_stream(const std::string& path, Compression compression);

}  // namespace osp
