// Where a command writes its results: paths that are checked before the work that fills them, so
// that no hour of computing ends at a name that cannot be written.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "osp/base/file.h"

namespace osp {

// The path that is filled when `path` is written: without slashes at the end, and with a link at
// its end followed, also where that leads to nothing yet. Error(usage) that begins with `option`:
// an empty name, "." or "..", a loop of links, a URI of an object store.
std::string resolved_output(const std::string& path, const std::string& option = "--out");

enum class OutputKind {
  file,        // replaced if it exists
  new_file,    // must not exist
  new_folder,  // must not exist, or be an empty folder
  folder,      // may exist with anything in it; who writes there has rules of its own
};

// A place for a result, held while it is computed.
class ReservedOutput {
 public:
  // Resolves the path, refuses what cannot be filled (Error(usage): of another kind, not empty, a
  // mount point that no rename can replace), creates the folders above a folder, proves that
  // entries can be made beside it (Error(io)), and locks the name: Error(usage) if another process
  // computes the same result. The lock is the file `path`.lock, removed at the end of the
  // object's life.
  ReservedOutput(const std::string& path, OutputKind kind, const std::string& option = "--out");
  ~ReservedOutput();
  ReservedOutput(const ReservedOutput&) = delete;
  ReservedOutput& operator=(const ReservedOutput&) = delete;

  const std::string& path() const { return path_; }  // resolved

 private:
  std::string path_;
  std::string lock_path_;
  int descriptor_ = -1;
};

// Error(usage) if two options of a command name one path; pairs of option and path, "" for none.
void check_distinct_outputs(const std::vector<std::pair<std::string, std::string>>& outputs);

}  // namespace osp
