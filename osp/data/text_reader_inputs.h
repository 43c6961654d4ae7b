// Which files the inputs of `osp tokenize` stand for, and what is in them.
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
  std::vector<std::string> ignored;  // files of folders whose names say none of the formats
};

// Paths that match a pattern of * ? [ ], in the order of their bytes.
std::vector<std::string> sorted_glob(const std::string& pattern);

// Expands files, folders (recursively, in the order of their paths' bytes) and globs, in the order
// of `arguments`; a file that several of them name is read once. The format follows the name (.txt
// .text .md .markdown .dict; .jsonl .ndjson; .parquet; each also with .gz, .dz or .zst) unless
// `format`
// ("text", "jsonl", "parquet"; "" for none) is given. Hidden files in folders and links to folders
// are passed over. Error(usage) if an argument stands for no file or the name of a file that was
// named by itself says no format.
TextInputs find_text_inputs(const std::vector<std::string>& arguments, const std::string& format);

}  // namespace osp
