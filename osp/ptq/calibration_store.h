// Activations of all calibration windows between two pieces of a block: in memory up to a limit,
// above it in an unnamed temporary file, one record per window.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace osp {

// Where stores keep their activations: in memory while that lasts, then in `folder`.
struct ActivationSpace {
  int64_t memory_bytes = int64_t{4} << 30;  // each store takes its part of it for good
  std::string folder = "/tmp";
};

class CalibrationStore {
 public:
  // Room for `windows` tensors [T, D] of `type`. Where the space has less memory left they go to a
  // file in its folder, which has no name and vanishes with this object. Error(io) if that fails.
  CalibrationStore(int64_t windows, int64_t length, int64_t width, at::ScalarType type,
                   ActivationSpace& space);
  ~CalibrationStore();
  CalibrationStore(const CalibrationStore&) = delete;
  CalibrationStore& operator=(const CalibrationStore&) = delete;

  // Windows [first, first + x.size(0)) as x [count, T, D].
  void put(int64_t first, const at::Tensor& x_BTD);
  at::Tensor get(int64_t first, int64_t count) const;

  int64_t windows() const { return windows_; }
  int64_t length() const { return length_; }
  bool on_disk() const { return descriptor_ >= 0; }

 private:
  int64_t windows_, length_, width_;
  at::ScalarType type_;
  at::Tensor memory_;  // [windows, T, D], undefined on disk
  int descriptor_ = -1;
  int64_t record_bytes_ = 0;
};

}  // namespace osp
