// One tensor of a packed layer: its name for messages, its checks and its numbers.
#pragma once

#include <fmt/ranges.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "osp/base/error.h"
#include "osp/formats/safetensors.h"
#include "osp/model/tensor_values.h"

namespace osp {

// The part of a layer with an ending of packed_parts; null if it is absent.
using FindPart = std::function<const TensorView*(const std::string&)>;

struct PackedPart {
  const TensorView* view = nullptr;
  std::string name;
  std::string where;

  void check_there() const {
    if (view == nullptr) fail(ErrorCode::damaged, "{}: {} is missing", where, name);
  }
  void check(const std::string& dtype, const std::vector<int64_t>& shape) const {
    check_there();
    if (view->dtype == dtype && view->shape == shape) return;
    fail(ErrorCode::damaged, "{}: {} is {} [{}], expected {} [{}]", where, name, view->dtype,
         fmt::join(view->shape, ", "), dtype, fmt::join(shape, ", "));
  }
  template <class T>
  std::vector<T> read() const {
    std::vector<T> values(view->data.size() / sizeof(T));
    if (!values.empty()) std::memcpy(values.data(), view->data.data(), values.size() * sizeof(T));
    return values;
  }
  // Finite numbers of a shape [a, b], of any type that is read as fp32; a file may leave out
  // dimensions of 1.
  std::vector<float> floats(const std::vector<int64_t>& shape) const {
    check_there();
    const bool same_count = product(view->shape) == product(shape);
    const bool loose = same_count && without_ones(view->shape) == without_ones(shape);
    check(is_read_as_fp32(view->dtype) ? view->dtype : "F32", loose ? view->shape : shape);
    std::vector<float> values(static_cast<size_t>(product(shape)));
    copy_to_fp32(*view, values.data());
    for (const float value : values) {
      if (!std::isfinite(value)) {
        fail(ErrorCode::damaged, "{}: {} holds {}, expected finite scales", where, name, value);
      }
    }
    return values;
  }

 private:
  static int64_t product(const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return count;
  }
  static std::vector<int64_t> without_ones(std::vector<int64_t> shape) {
    std::erase(shape, 1);
    return shape;
  }
};

}  // namespace osp
