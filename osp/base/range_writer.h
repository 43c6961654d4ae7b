// Ranges of a file that several processes write, each its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace osp {

// Writes ranges of a file that exists already: where they end beyond it, it grows. Two writers may
// work on one file as long as their ranges do not overlap. Every write is checked; close() fsyncs
// and reports errors; the destructor closes silently. Errors: Error(io) with path and reason.
class RangeWriter {
 public:
  explicit RangeWriter(const std::string& path);
  ~RangeWriter();
  RangeWriter(const RangeWriter&) = delete;
  RangeWriter& operator=(const RangeWriter&) = delete;

  // Bytes [offset, offset + num_bytes) of the file.
  void write(uint64_t offset, const void* data, size_t num_bytes);
  void close();

 private:
  std::string path_;
  int descriptor_ = -1;
};

}  // namespace osp
