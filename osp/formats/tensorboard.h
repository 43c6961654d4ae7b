// TensorBoard event files: scalars and text over steps, written record by record so that a viewer
// can follow a run and a crash loses nothing that was written before it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "osp/base/file.h"

namespace osp {

// CRC-32C (Castagnoli) of bytes, and the masked form that event files store.
uint32_t crc32c(std::string_view bytes);
uint32_t masked_crc32c(std::string_view bytes);

// True if the folder holds event files of an earlier writer. Error(io) if it cannot be listed.
bool has_event_files(const std::string& folder);

// Writes one new file `events.out.tfevents.<seconds>.osp.<pid>.<n>` in the folder; existing files
// are left alone, so a resumed run adds a file. Viewers read the files in the order of their names:
// <seconds> is that of the start, or one more than that of the newest file there. Each record
// reaches the system in one write before the call returns. Errors are Error(io); after one the file
// may end in a torn record, which readers take for the end, so the writer must not be used again.
class EventWriter {
 public:
  // `start_time_s` in seconds since 1970. With `resumed_at_step` viewers drop the points of earlier
  // files in the folder at that step and later ones.
  EventWriter(const std::string& folder, double start_time_s,
              std::optional<int64_t> resumed_at_step = {});

  // One point of the curve `tag`; stored as float32.
  void scalar(std::string_view tag, int64_t step, double value, double wall_time_s);
  // One text (Markdown) under `tag`.
  void text(std::string_view tag, int64_t step, std::string_view text, double wall_time_s);
  // Waits until everything written is on the disk.
  void flush();

  const std::string& path() const { return path_; }

 private:
  void write_record(std::string_view event);

  std::string path_;
  FileWriter file_;
};

}  // namespace osp
