// The request that quantize_model() carries out: the one struct between the command line
// and the library.
//
//   QuantizeCommand (osp/cli/quantize.cpp)  the options of `osp quantize`: several models, methods,
//                                           seeds and what is measured, and a QuantizeRequest
//   QuantizeRequest                         one model, one method, one seed
//   BlockByBlockOptions, WeightSettings     inside the library: what a block needs to know
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "osp/base/fields.h"
#include "osp/ptq/block_by_block.h"
#include "osp/ptq/calibration.h"
#include "osp/ptq/quantize_method.h"
#include "osp/ptq/spinquant.h"
#include "osp/quant/fake_quant.h"
#include "osp/quant/tables.h"

namespace osp {

ActivationMode parse_activation_mode(const std::string& text);
// The inverse functions of parse_activation_mode() and parse_profile().
std::string activation_mode_name(ActivationMode mode);
std::string profile_name(Profile profile);

struct QuantizeRequest {
  QuantizeMethod method;
  Profile profile = Profile::osp_paper;
  BitWidths bits = {4, 4, 4};
  int64_t group = 0;
  bool asymmetric = false;
  std::string weight_scales = "absmax";  // or "mse", of floating-point weights
  ActivationMode activations = ActivationMode::per_token;
  int64_t down_block = 0;      // of the Hadamard before the down projection; 0: one for all of it
  int64_t rotation_block = 0;  // of QuaRot's rotation of the residual stream; 0: one
  ClipRatios clips = {};       // of dynamic activation and cache grids
  ActivationGroups groups = {};
  MeanOffset mean_offset = MeanOffset::none;
  std::string calibration;  // shards or a file; "": none, where the method needs none
  int64_t windows = CalibrationOptions().windows;
  int64_t length = CalibrationOptions().length;
  uint64_t seed = 0;                      // of calibration windows and random rotations
  std::string calibration_type = "auto";  // see bf16()
  double memory_gib = 4.0;                // for calibration activations
  SpinQuantSchedule spin = {};
  TableType tables = TableType::bf16;
  std::string out;  // the quantized model dir; `out`.work while it is made
  bool resume = false;

  std::function<void(const std::string& stage)> stage;  // what is being done
  // `unit` is "layers" (linear ones) or, while rotations are learned, "steps".
  std::function<void(const char* unit, int64_t done, int64_t total, double seconds_left)> progress;
  std::function<void(const std::string&)> warn;
  std::function<bool()> stop;  // see BlockByBlockOptions

  // True if the forward pass over calibration windows runs in bf16; else in fp32.
  bool bf16() const;

  // The options but for the method, which may be a table of methods on the command line.
  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Method");
    visit("bits", parsed_text(self.bits, parse_bits, [](const BitWidths& b) { return b.text(); }),
          "number formats W-A-KV of weights, activations and key/value cache; each 2 to 8 for "
          "integers of that many bits, mxfp4, nvfp4 or fp8, or 16 for no quantization",
          {.value = "W-A-KV"});
    visit("group", self.group, Range{0, 65536},
          "columns of a weight matrix that share one scale; 0 = a whole row");
    visit("asymmetric", self.asymmetric, "give the grids of the weights a zero point");
    visit(
        "weight_scales", self.weight_scales, Choices{{"absmax", "mse"}},
        "scales of mxfp4, nvfp4 and fp8 weights; absmax = from the largest number under each, as "
        "compressed-tensors has them, mse = those with the least error, searched as for integers");
    visit("profile", parsed_text(self.profile, parse_profile, profile_name),
          "settings of grids and GPTQ; osp-paper = those of the paper's reference code, best = "
          "fp16 scales, act-order, Hessians of quantized inputs and, for activations of 4 bits or "
          "fewer, --activation-group 32 where that divides",
          {.value = "NAME"});
    visit("activation_scales",
          parsed_text(self.activations, parse_activation_mode, activation_mode_name),
          "scales of the activations; per-token = computed for each token, after-norm = one "
          "constant after each norm, per-tensor = one calibrated constant per tensor",
          {.value = "NAME"});
    visit("activation_clip", self.clips.activations, Range{0.1, 1},
          "fraction of the value range that activation grids cover");
    visit("cache_clip", self.clips.cache, Range{0.1, 1},
          "fraction of the value range that key/value grids cover");
    ActivationGroups::fields(visit, self.groups);
    visit(
        "mean_offset", parsed_text(self.mean_offset, parse_mean_offset, mean_offset_name),
        "inputs of linear layers whose mean over the calibration tokens is subtracted before they "
        "are rounded and added again as a bias; none, residual = those of q, k, v and gate, up, "
        "all = and those of o and down",
        {.value = "INPUTS"});
    visit("hadamard_block", self.down_block, Range{0, 1 << 20},
          "size of the diagonal blocks of the Hadamard transform in front of the down projection; "
          "0 = one block");
    visit("rotation_block", self.rotation_block, Range{0, 65536},
          "size of the diagonal blocks of quarot's rotation of the residual stream, such as the 32 "
          "numbers that share a scale in mxfp4; 0 = one block");
    visit.group("Calibration");
    visit("calibration", self.calibration,
          "calibration text: token shards, or a file of text, JSON lines or Parquet; "
          "s3://BUCKET/KEY and gs://BUCKET/KEY name those of an object store",
          {.value = "PATH"});
    visit("windows", self.windows, Range{1, 1 << 20}, "number of calibration windows",
          {.formerly = "samples"});
    visit("length", self.length, Range{2, 1 << 20},
          "length of a calibration window, at most the trained context", {.unit = "tokens"});
    visit("seed", self.seed, Range{0, 1099511627776.0},
          "seed of the calibration windows and random rotations");
    visit("calibration_type", self.calibration_type, Choices{{"auto", "bf16", "fp32"}},
          "precision of the calibration forward pass; auto picks bf16 on CPUs with bf16 "
          "instructions");
    visit("memory", self.memory_gib, Range{0.001, 65536},
          "memory for calibration activations; what exceeds it is kept in files",
          {.unit = "GiB", .affects_results = false});
    SpinQuantSchedule::fields(visit, self.spin);
    visit.group("Output");
    visit("tables", parsed_text(self.tables, parse_table_type, table_type_name),
          "type of embedding and head in the folder; bf16 = 16 bits, fp32 = as they are, int8 and "
          "int4 = integers with an fp16 scale for 32 numbers, which osp alone runs",
          {.value = "TYPE"});
    visit("out", self.out, "folder to write the quantized model to",
          {.value = "FOLDER", .affects_results = false});
    visit("resume", self.resume, "continue after the last finished block of an interrupted run",
          {.affects_results = false});
  }
};

// Everything in a request that affects results, as canonical JSON made from the description of its
// fields: equal requests give equal text.
Json request_json(const QuantizeRequest& request);

}  // namespace osp
