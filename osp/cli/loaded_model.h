// A model dir at the widths of `--bits`: a plain one with quantizers in front of it, or one that
// `osp quantize` wrote, which has its own widths.
#pragma once

#include <memory>
#include <string>

#include "osp/base/fields.h"
#include "osp/cli/command.h"
#include "osp/ptq/quantized_model_dir.h"
#include "osp/quant/fake_quant.h"
#include "osp/runtime/engine.h"

namespace osp {

// The `--bits` of commands that run a model at one choice of widths; "": the model's own.
template <class Visitor>
void visit_bits(Visitor& visit, std::string& bits) {
  visit(
      "bits", bits,
      "number formats W-A-KV of weights, activations and key/value cache at which the model runs; "
      "each 2 to 8 for integers of that many bits, mxfp4, nvfp4 or fp8, or 16 for no quantization "
      "(default those of a quantized model dir, else 16-16-16)",
      {.value = "W-A-KV"});
}

// Error(usage) if --bits was given and names no formats.
void check_bits(const CommonOptions& common, const std::string& bits);

// How a quantized model dir is run.
struct EngineChoice {
  std::string engine = "auto";
  std::string head = "16";

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Quantized model dirs");
    visit(
        "engine", self.engine, Choices{{"auto", "integer", "simulated"}},
        "how a quantized model dir runs: integer = on 4-bit integers, simulated = rounded numbers "
        "in floating point, auto = integer where the model, its widths and its whole context allow "
        "it");
    visit("head", self.head, Choices{{"16", "8", "4"}},
          "bits of the output layer's weights on the integer engine; the most likely token is that "
          "of 16 bits in any case",
          {.unit = "bits"});
  }
};

// The tap refers to the store, so it stays where it is.
struct LoadedModel {
  // Of a plain model dir: the store alone. On the integer engine, which has the parameters, the
  // configuration alone.
  QuantizedModel model;
  BitWidths bits;
  std::unique_ptr<Tap> tap;  // null at 16 bits
  bool integer = false;      // it runs on the integer engine
  std::string engine_note;   // "integer engine (avx512-vnni, avx512), 2 threads, 8-bit head"
};

// Loads `dir` at the widths `bits` (as --bits writes them; "": the model's own). Error(usage) if
// the model is quantized to other widths, Error(unsupported) if the engine "integer" cannot run it;
// further errors as parse_bits and load_model_dir.
std::unique_ptr<LoadedModel> load_model_at(const std::string& dir, const std::string& bits,
                                           const EngineChoice& choice = {.engine = "simulated"});

// A quantized model dir on the integer engine alone. Error(unsupported) with the reason if it
// cannot run it, Error(usage) if it is not quantized.
std::unique_ptr<Engine> load_engine(const std::string& dir, const EngineOptions& options);

// The layers of a quantized model dir as the engine reads them. Errors as load_engine, and
// Error(unsupported) for a folder of panels.
std::unique_ptr<const RuntimeModel> load_runtime_model(const std::string& dir);

// Refuses --engine and --head where they would change nothing: without a quantized model dir, and
// --head where the engine simulates.
void check_engine_options(const CommonOptions& common, const EngineChoice& choice, bool quantized);
// Refuses --head once it is known that the model does not run on the integer engine.
void check_head_applies(const CommonOptions& common, const LoadedModel& loaded);

// Products of a loaded store in the type of `--precision`. Error(usage) on the integer engine.
void use_precision(const std::string& precision, LoadedModel& loaded);

// Warns where a model is the text part of a checkpoint that has more.
void note_text_part(const std::string& model, Console& console);

// Warns where a model's weights had been rounded before (rounded_before of
// osp/ptq/quantized_model_dir.h), and adds that to results as "rounded_before".
void note_rounded_before(const std::string& model, const std::string& before, Console& console);
void add_rounded_before(Json& results, const std::string& before);

// Error(usage): the model in `dir` has its own widths, and others were given.
[[noreturn]] void refuse_bits(const std::string& asked, const std::string& dir,
                              const BitWidths& own);

}  // namespace osp
