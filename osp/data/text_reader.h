// All documents of a list of files, in order, in chunks that workers can take away.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "osp/data/document_split.h"
#include "osp/data/json_line.h"
#include "osp/data/text_reader_inputs.h"

namespace osp {

// Some consecutive documents of one file. JSON lines are not parsed yet; the workers do that.
struct DocumentChunk {
  // The place of a document in `bytes`.
  struct Span {
    size_t begin = 0;
    size_t size = 0;
    uint64_t line = 0;  // line of a JSON lines file
  };
  size_t file = 0;  // index into the list of files
  bool json_lines = false;
  std::string bytes;
  std::vector<Span> documents;
  uint64_t num_null = 0;         // rows of a Parquet file without text
  uint64_t num_too_long = 0;     // lines of JSON lines that were left out for their length
  uint64_t file_bytes_read = 0;  // sum over all files up to here, for progress

  std::string_view document(size_t index) const {
    return std::string_view(bytes).substr(documents[index].begin, documents[index].size);
  }
};

struct TextReadOptions {
  std::string field = "text";  // field of JSON lines, column of Parquet
  DocumentPolicy policy = {};  // for text and Markdown
  // For lines of JSON lines beyond max_line_bytes; the others are judged by who parses them.
  OnBadLine on_bad_line = OnBadLine::stop;
  size_t max_line_bytes = size_t{1} << 30;
  // A chunk is passed on once it holds this much; only a longer single document makes a longer one.
  size_t chunk_bytes = 1 << 20;
};

// Reads all files once and passes their documents on, at least one chunk per file. A UTF-8 byte
// order mark at the beginning of a text or JSON lines file is dropped. Returns early when `sink`
// returns false. Memory: one chunk, one read buffer and the longest document.
void read_documents(const std::vector<TextInput>& files, const TextReadOptions& options,
                    const std::function<bool(DocumentChunk)>& sink);

}  // namespace osp
