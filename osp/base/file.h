// Files: whole-file reads, atomic and durable writes, mapping, locking. Every failure is an
// Error(io) that names the path and the system's reason; no write ever happens at a final name.
// Where that is a link, its target is written (osp/base/output.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace osp {

// The file's bytes. Error(io) if it cannot be read, Error(damaged) if longer than `max_bytes`.
std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 40);

// Writes to `path.tmp-<pid>` in the same folder, checks write and close, fsyncs the file, renames,
// fsyncs the folder. On failure the temporary file is removed and the old content is untouched.
void write_file_atomic(const std::string& path, std::string_view bytes);

// Writes whatever lands at a path: a file, or the files of a folder that exists already. Each file
// must be fsynced on return (FileWriter, write_file_atomic).
using WriteAt = std::function<void(const std::string& path)>;

// A file that is written in pieces: `write` creates it at `path.tmp`; then it is renamed and the
// folder fsynced. If anything throws, `path.tmp` is removed and `path` untouched. One
// writer at a time.
void write_file_atomic(const std::string& path, const WriteAt& write);

enum class IfExists { refuse, replace };

// Builds a folder of several files, so that `path` is whole and durable, or absent:
//   1. `path.tmp`, left over by an interrupted process, is removed and created empty;
//   2. `write` fills it; then the folder itself is fsynced;
//   3. with IfExists::replace, what is at `path` is removed;
//   4. `path.tmp` is renamed to `path`, which fails with Error(io) if a folder with entries is
//      there (an empty one is replaced), and the parent folder is fsynced.
// If anything throws, `path.tmp` is removed, `path` is untouched up to step 3 and absent after
// step 4, and the first failure is rethrown. One writer at a time.
void write_folder_atomic(const std::string& path, const WriteAt& write,
                         IfExists existing = IfExists::refuse);

// Durable building blocks for other multi-file commits.
void fsync_file(const std::string& path);
void fsync_directory(const std::string& path);
void make_directories(const std::string& path);
void rename_path(const std::string& from, const std::string& to);
void remove_tree(const std::string& path);

// A file being written in pieces: every write checked, close() fsyncs and reports errors; the
// destructor closes silently and leaves the (incomplete) file for the caller to remove.
class FileWriter {
 public:
  explicit FileWriter(const std::string& path);  // creates or truncates
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, size_t num_bytes);
  void close(bool sync = true);
  uint64_t bytes_written() const { return bytes_written_; }

 private:
  std::string path_;
  int descriptor_ = -1;
  uint64_t bytes_written_ = 0;
};

// A read-only memory mapping of a whole file (empty files map to an empty span).
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Takes the whole pages of bytes of a mapping out of this process's memory; they are read from the
// file again when they are touched. For who reads a large file part by part.
void release_pages(std::span<const std::byte> mapped);

// An exclusive advisory lock (flock) held for the object's life. Where another process holds it:
// Error(usage) naming the file, or with `wait` the end of that.
class FileLock {
 public:
  explicit FileLock(const std::string& path, bool wait = false);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_ = -1;
};

bool path_exists(const std::string& path);
bool is_directory(const std::string& path);

}  // namespace osp
