// For tests only: a fresh folder that is removed with everything in it at the end of the test.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "osp/base/temporary_folder.h"

namespace osp {

// Puts the temporary files of a test into memory where that is possible, for tests that would wait
// for the disk some hundred times. To be made before the TestFolder.
struct TestFilesInMemory {
  TestFilesInMemory() {
    if (access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1);
  }
};

class TestFolder : public TemporaryFolder {
 public:
  // A file of these bytes, with the folders above it; returns its path.
  std::string write(const std::string& name, const std::string& bytes) const {
    const std::string path = *this / name;
    make_directories(std::filesystem::path(path).parent_path().string());
    write_file_atomic(path, bytes);
    return path;
  }
};

}  // namespace osp
