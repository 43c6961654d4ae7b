// The files that the inputs of `osp tokenize` stand for, and their formats.
//
// Tested by osp/data/text_reader_test.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/data/text_reader_stream.h"

namespace osp {

enum class TextFormat { text, json_lines, parquet };

struct TextInput {
  std::string path;
  TextFormat format = TextFormat::text;
  Compression compression = Compression::none;
  uint64_t file_bytes = 0;
};

struct TextInputs {
  std::vector<TextInput> files;
  std::vector<std::string> ignored;  // files in folders whose names have no known format
};

// Paths that match a pattern of * ? [ ], in the order of their bytes.
std::vector<std::string> sorted_glob(const std::string& pattern);

// True if the end of a file's name says a format (below).
bool has_text_name(const std::string& path);

// Expands files, folders (recursively, in the order of their paths' bytes) and globs, in the order
// of `arguments`; a file that several of them name is read once. `format` is "text", "jsonl",
// "parquet", or "" to choose by the name of each file:
//   text       .txt .text .md .markdown .dict
//   jsonl      .jsonl .ndjson
//   parquet    .parquet
// each also with .gz, .dz or .zst. Hidden files in folders and links to folders are omitted. A file
// or folder may lie in an object store (s3://BUCKET/KEY, osp/data/object_store.h).
// Error(io) for a link in a folder that leads nowhere.
// Error(usage) if an argument stands for no file, or if a file named by itself has a name without a
// known format.
TextInputs find_text_inputs(const std::vector<std::string>& arguments, const std::string& format);

}  // namespace osp
