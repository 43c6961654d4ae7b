#include "osp/model/tensor_values.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstring>

namespace osp {
namespace {

// Widens 16-bit elements; the source need not be aligned.
template <class Element>
void widen(const TensorView& view, float* out) {
  const size_t count = view.data.size() / sizeof(Element);
  for (size_t i = 0; i < count; ++i) {
    Element value;
    std::memcpy(&value, view.data.data() + i * sizeof(Element), sizeof(Element));
    out[i] = static_cast<float>(value);
  }
}

}  // namespace

bool is_read_as_fp32(const std::string& dtype) {
  return dtype == "F32" || dtype == "BF16" || dtype == "F16";
}

void copy_to_fp32(const TensorView& view, float* out) {
  if (view.dtype == "F32") {
    std::memcpy(out, view.data.data(), view.data.size());
  } else if (view.dtype == "BF16") {
    widen<c10::BFloat16>(view, out);
  } else {
    widen<c10::Half>(view, out);
  }
}

}  // namespace osp
