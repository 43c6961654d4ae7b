// Files for readers that take a path: in memory where that is possible, one folder a process, which
// is removed at its end.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

#include "osp/base/temporary_folder.h"

namespace osp::fuzz {

inline const TemporaryFolder& memory_folder() {
  static const TemporaryFolder folder = [] {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
    return TemporaryFolder();
  }();
  return folder;
}

// Writes the bytes to `name` in that folder and returns the path.
inline std::string memory_file(const std::string& name, const uint8_t* data, size_t size) {
  std::string path = memory_folder() / name;
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  return path;
}

}  // namespace osp::fuzz
