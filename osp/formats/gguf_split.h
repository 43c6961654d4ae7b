// Models in several GGUF files, by llama.cpp's conventions: NAME-00001-of-00003.gguf and so on.
// Each has the keys split.no (from 0), split.count and split.tensors.count (of all files); the
// metadata are those of the first.
//
// Tested by gguf_split_test.cpp and tests/python/test_gguf_split.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/formats/gguf.h"
#include "osp/formats/gguf_writer.h"

namespace osp {

// The number of files of the model that a file with these metadata belongs to; 1 for a file of its
// own. Error(damaged) for numbers that are none from 1 to 65535.
int64_t gguf_split_count(const GgufMetadata& metadata);

// The path of part `number` (from 1) of a model that is called NAME.gguf.
std::string gguf_part_path(const std::string& path, int64_t number, int64_t count);

// NAME of a file that is called NAME.gguf or, of any part, NAME-00001-of-00003.gguf; other names as
// they are.
std::string gguf_model_name(std::string file_name);

// The paths of all `count` parts beside `path`, which is one of them. Error(damaged) if its name is
// not that of a part of so many.
std::vector<std::string> gguf_part_paths(const std::string& path, int64_t count);

// The parts as one file: metadata of the first, tensors of all. Error(damaged) that names the file
// where a part is not the one that its place says, the parts disagree, a tensor is in two of them,
// or there are fewer or more tensors than split.tensors.count.
GgufContents join_gguf_parts(std::vector<GgufContents> parts);

// Writes one file `path`, or where the tensors take more than `split_bytes` (0: any number)
// several, each with as many tensors in the given order as fit, at least one. Files get their names
// one by one when they are complete, the first part last; after an error none is left. Error(usage)
// if a part exists, Error(io). Returns the paths.
std::vector<std::string> write_gguf_parts(const std::string& path,
                                          const GgufMetadataWriter& metadata,
                                          const std::vector<GgufTensorEntry>& tensors,
                                          uint64_t split_bytes);

}  // namespace osp
