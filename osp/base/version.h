// The version of the program, as in CMakeLists.txt.
#pragma once

namespace osp {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace osp
