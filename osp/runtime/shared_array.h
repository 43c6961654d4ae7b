// Numbers that do not change, wherever they lie: in a vector, in memory of huge pages or in a
// mapped file, which is kept as long as anyone refers to them.
//
// Tested by panel_file_test.cpp.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "osp/runtime/aligned_memory.h"

namespace osp {

template <class T>
class SharedArray {
 public:
  SharedArray() = default;
  SharedArray(std::vector<T> numbers) {
    auto own = std::make_shared<const std::vector<T>>(std::move(numbers));
    view_ = *own;
    owner_ = std::move(own);
  }
  SharedArray(AlignedMemory memory) {
    auto own = std::make_shared<const AlignedMemory>(std::move(memory));
    view_ = {reinterpret_cast<const T*>(own->data()), own->bytes() / sizeof(T)};
    owner_ = std::move(own);
  }
  // A part of what `owner` keeps.
  SharedArray(std::span<const T> part, std::shared_ptr<const void> owner)
      : owner_(std::move(owner)), view_(part) {}

  const T* data() const { return view_.data(); }
  size_t size() const { return view_.size(); }
  bool empty() const { return view_.empty(); }
  const T& operator[](size_t i) const { return view_[i]; }
  operator std::span<const T>() const { return view_; }

 private:
  std::shared_ptr<const void> owner_;
  std::span<const T> view_;
};

}  // namespace osp
