// For tests only: a fresh folder that is removed with everything in it at the end of the test.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include "osp/base/error.h"
#include "osp/base/file.h"

namespace osp {

// A new, empty folder below the system's folder for temporary files.
class TestFolder {
 public:
  TestFolder() {
    path_ = (std::filesystem::temp_directory_path() / "osp-test-XXXXXX").string();
    OSP_CHECK(mkdtemp(path_.data()) != nullptr, "cannot create {}", path_);
  }
  ~TestFolder() { remove_tree(path_); }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  // The path of an entry of this folder.
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  // A file of these bytes, with the folders above it; returns its path.
  std::string write(const std::string& name, const std::string& bytes) const {
    const std::string path = *this / name;
    make_directories(std::filesystem::path(path).parent_path().string());
    write_file_atomic(path, bytes);
    return path;
  }

 private:
  std::string path_;
};

}  // namespace osp
