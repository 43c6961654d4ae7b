#include "osp/ptq/calibration_store.h"

#include <ATen/ops/empty.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "osp/base/error.h"

namespace osp {
namespace {

// A file without a name in `folder`.
int open_unnamed(const std::string& folder) {
  std::string path = folder + "/calibration-XXXXXX";
  const int descriptor = mkstemp(path.data());
  if (descriptor < 0) {
    fail(ErrorCode::io, "{}: cannot create a file for calibration activations ({})", folder,
         std::strerror(errno));
  }
  unlink(path.c_str());
  return descriptor;
}

// Calls pread or pwrite until everything is done.
template <class Byte, class Call>
void transfer(Byte* data, int64_t bytes, int64_t offset, const char* what, const Call& call) {
  while (bytes > 0) {
    const ssize_t done = call(data, static_cast<size_t>(bytes), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      fail(ErrorCode::io, "calibration activations: cannot {} the temporary file ({})", what,
           done < 0 ? std::strerror(errno) : "it ends early");
    }
    data += done;
    bytes -= done;
    offset += done;
  }
}

}  // namespace

CalibrationStore::CalibrationStore(int64_t windows, int64_t length, int64_t width,
                                   at::ScalarType type, ActivationSpace& space)
    : windows_(windows), length_(length), width_(width), type_(type) {
  record_bytes_ = length * width * static_cast<int64_t>(c10::elementSize(type));
  if (windows * record_bytes_ > space.memory_bytes) {
    descriptor_ = open_unnamed(space.folder);
  } else {
    space.memory_bytes -= windows * record_bytes_;
    memory_ = at::empty({windows, length, width}, at::TensorOptions().dtype(type));
  }
}

CalibrationStore::~CalibrationStore() {
  if (descriptor_ >= 0) close(descriptor_);
}

void CalibrationStore::put(int64_t first, const at::Tensor& x_BTD) {
  const int64_t count = x_BTD.size(0);
  OSP_CHECK(first >= 0 && first + count <= windows_ && x_BTD.size(1) == length_ &&
                x_BTD.size(2) == width_ && x_BTD.scalar_type() == type_,
            "windows {} to {} of {}", first, first + count, windows_);
  if (!on_disk()) {
    memory_.narrow(0, first, count).copy_(x_BTD);
    return;
  }
  const at::Tensor x = x_BTD.contiguous();
  transfer(static_cast<const char*>(x.const_data_ptr()), count * record_bytes_,
           first * record_bytes_, "write", [&](const char* data, size_t bytes, int64_t offset) {
             return pwrite(descriptor_, data, bytes, offset);
           });
}

at::Tensor CalibrationStore::get(int64_t first, int64_t count) const {
  OSP_CHECK(first >= 0 && first + count <= windows_, "windows {} to {} of {}", first, first + count,
            windows_);
  if (!on_disk()) return memory_.narrow(0, first, count);
  at::Tensor x = at::empty({count, length_, width_}, at::TensorOptions().dtype(type_));
  transfer(static_cast<char*>(x.mutable_data_ptr()), count * record_bytes_, first * record_bytes_,
           "read", [&](char* data, size_t bytes, int64_t offset) {
             return pread(descriptor_, data, bytes, offset);
           });
  return x;
}

}  // namespace osp
