// A model dir as `--bits` asks for it: a plain one with quantizers put in front of it, or one that
// `osp quantize` wrote, which has its own widths.
#pragma once

#include <memory>
#include <string>

#include "osp/ptq/quantized_model_dir.h"
#include "osp/quant/fake_quant.h"

namespace osp {

// The tap refers to the store, so it stays where it is.
struct LoadedModel {
  QuantizedModel model;  // of a plain model dir: the store alone
  BitWidths bits;
  std::unique_ptr<FakeQuantTap> tap;  // null at 16 bits
};

// `bits` as of --bits, 16-16-16 unless given. Error(usage) if the model is quantized to others;
// further errors as parse_bits and load_model_dir.
std::unique_ptr<LoadedModel> load_model_at(const std::string& dir, const std::string& bits);

// Error(usage): the model in `dir` has its own widths, other ones were asked for.
[[noreturn]] void refuse_bits(const std::string& asked, const std::string& dir,
                              const BitWidths& own);

}  // namespace osp
