// The version of the program, as in CMakeLists.txt.
//
// Tested by provenance_test.cpp and tests/python/test_py_package.py.
#pragma once

namespace osp {

inline constexpr const char* kVersion = "0.1.0";

}  // namespace osp
