// A model dir at the widths of `--bits`: a plain one with quantizers in front of it, or one that
// `osp quantize` wrote, which has its own widths.
#pragma once

#include <memory>
#include <string>

#include "osp/ptq/quantized_model_dir.h"
#include "osp/quant/fake_quant.h"

namespace osp {

// The `--bits` of commands that run a model at one choice of widths.
template <class Visitor>
void visit_bits(Visitor& visit, std::string& bits) {
  visit("bits", bits,
        "bit widths W-A-KV of weights, activations and key/value cache at which the model runs; "
        "each 2 to 8, or 16 for no quantization",
        {.value = "W-A-KV"});
}

// The tap refers to the store, so it stays where it is.
struct LoadedModel {
  QuantizedModel model;  // of a plain model dir: the store alone
  BitWidths bits;
  std::unique_ptr<FakeQuantTap> tap;  // null at 16 bits
};

// Loads `dir` at the widths `bits` (as --bits writes them; 16-16-16 means the model's own). Error(usage)
// if the model is quantized to other widths; further errors as parse_bits and load_model_dir.
std::unique_ptr<LoadedModel> load_model_at(const std::string& dir, const std::string& bits);

// Error(usage): the model in `dir` has its own widths, and others were given.
[[noreturn]] void refuse_bits(const std::string& asked, const std::string& dir,
                              const BitWidths& own);

}  // namespace osp
