// For tests only: a fresh folder that is removed with everything in it at the end of the test.
#pragma once

#include <filesystem>
#include <string>

#include "osp/base/temporary_folder.h"

namespace osp {

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
