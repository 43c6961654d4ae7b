// The safetensors files of a model dir: one, or those that an index names, opened and checked
// against the index.
//
// Tested by tests/python/test_model_dir.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "osp/formats/safetensors.h"

namespace osp {

inline constexpr const char* kWeightsFile = "model.safetensors";

// The tensors of one or several files, and where each was found.
struct TensorSource {
  const TensorView* view;
  std::string file;
};
struct WeightFiles {
  std::string where;  // the file to blame for a tensor that is nowhere
  std::vector<SafetensorsFile> files;
  std::map<std::string, TensorSource> tensors;
  std::map<std::string, std::string> metadata;  // of all files
};

// Opens model.safetensors of a folder, or the files of model.safetensors.index.json. Error(damaged)
// for a tensor in two files and where index and files differ, Error(unsupported) for pickled
// weights and panels.
WeightFiles open_weights(const std::string& dir);

// A name from a file for a one-line message: quoted, ASCII, cut; and a shape.
std::string shown(const std::string& name);
std::string shown(const std::vector<int64_t>& shape);

}  // namespace osp
