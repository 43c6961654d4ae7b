// A fresh folder below the system's folder for temporary files (TMPDIR), removed with everything in
// it at the end of the object's life.
//
// Tested by tests/python/test_quantize.py.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "osp/base/error.h"
#include "osp/base/file.h"

namespace osp {

class TemporaryFolder {
 public:
  // Error(io) if it cannot be made.
  TemporaryFolder() {
    path_ = (std::filesystem::temp_directory_path() / "osp-XXXXXX").string();
    if (mkdtemp(path_.data()) == nullptr) {
      fail(ErrorCode::io, "{}: cannot create a temporary folder; TMPDIR names another place",
           path_);
    }
  }
  ~TemporaryFolder() { remove_tree(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  // The path of an entry of this folder.
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace osp
