// Files: whole-file reads, atomic and durable writes, mapping, locking. Every failure is an
// Error(io) that names the path and the system's reason; no write ever happens at a final name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace osp {

// The file's bytes. Error(io) if it cannot be read, Error(damaged) if longer than `max_bytes`.
std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 40);

// Writes to `path.tmp-<pid>` in the same folder, checks write and close, fsyncs the file, renames,
// fsyncs the folder. On failure the temporary file is removed and the old content is untouched.
void write_file_atomic(const std::string& path, std::string_view bytes);

// Durable building blocks for multi-file commits (checkpoints).
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

// An exclusive advisory lock (flock) held for the object's life. Error(usage) naming the file if
// another process holds it.
class FileLock {
 public:
  explicit FileLock(const std::string& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_ = -1;
};

bool path_exists(const std::string& path);
bool is_directory(const std::string& path);

}  // namespace osp
