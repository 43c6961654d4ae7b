// Calibration text: windows of tokens on which a model is watched while it is quantized.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace osp {

struct CalibrationOptions {
  int64_t windows = 128;
  int64_t length = 2048;  // tokens per window, at most the trained context
  uint64_t seed = 0;
  std::string text_field = "text";  // of JSON lines and Parquet
  // Where windows start: true, Python's random.Random(seed).randint(0, n − length − 1) as in the
  // reference; false, our own generator over all n − length + 1 places.
  bool reference_starts = false;
};

struct Calibration {
  at::Tensor windows_NT;   // int64
  int64_t num_tokens = 0;  // of the text that they were drawn from
  std::string source;      // as given
  std::string warning;     // "": none
};

// Windows of `source` for a model with this trained context and vocabulary. `source` is a folder of
// token shards (training split), a .bin shard, or a file of text, JSON lines or Parquet, whose
// documents (16 MiB of them at most) are joined by blank lines and encoded by the tokenizer.json in
// `model_dir` without special tokens. Errors: usage if the file or the tokenizer is absent;
// unsupported, with the number of tokens that are missing, if the text is shorter than one window;
// damaged if a token id is not below the vocabulary.
Calibration read_calibration(const std::string& source, const std::string& model_dir,
                             int64_t context, int64_t vocabulary,
                             const CalibrationOptions& options = {});

// Start of every window in a text of `num_tokens` tokens, which hold at least one window.
std::vector<int64_t> window_starts(int64_t num_tokens, int64_t length,
                                   const CalibrationOptions& options);

}  // namespace osp
