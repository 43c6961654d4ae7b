// How fast this machine runs a quantized model in integers, beside what the machine could do: the
// rate of its integer products in registers and that of a plain read, in the same process.
//
//   prefill   tokens a second of a prompt that is read at once
//   decode    tokens a second of one text behind so many tokens
//   batch     tokens a second of several texts together, one token of each at a time
//
// Seconds are those of the process's CPU time with one thread (whatever else runs on the machine),
// and of the clock with more. A rate is the median of the repetitions.
//
// Without a test: `osp bench run` prints its numbers, which differ by machine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "osp/base/console.h"
#include "osp/base/fields.h"
#include "osp/base/json.h"
#include "osp/runtime/engine.h"

namespace osp {

struct EngineBench {
  std::string model;
  std::string prefill = "128,512,2048";
  std::string depths = "0,512,2048";
  std::string sequences = "1,4,8";
  int64_t decode_tokens = 64;
  int64_t repetitions = 3;
  int64_t threads = 1;
  std::string head = "8";

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit("model", self.model,
          "quantized model dir, or random:smollm2-135m or random:1.4b for random weights of that "
          "shape",
          {.positional = true, .required = true});
    visit.group("Timing");
    visit("prefill", self.prefill, "lengths of prompts to read, separated by commas",
          {.value = "N,..."});
    visit("depths", self.depths, "numbers of tokens in front of those that are decoded",
          {.value = "N,..."});
    visit("sequences", self.sequences,
          "numbers of texts that are decoded together, behind 128 tokens each", {.value = "N,..."});
    visit("decode_tokens", self.decode_tokens, Range{1, 100000},
          "number of tokens that are decoded in each timing behind a depth");
    visit("repetitions", self.repetitions, Range{1, 1000}, "number of times that all is timed");
    visit("threads", self.threads, Range{1, 4096}, "number of threads");
    visit("head", self.head, Choices{{"16", "8", "4"}}, "bits of the output layer's weights",
          {.unit = "bits"});
  }
};

// A model with random codes and scales. Names as above without "random:"; Error(usage) for others.
std::unique_ptr<const RuntimeModel> random_runtime_model(const std::string& name);

// The rates as JSON; what a length or depth beyond the model's context gives is left out.
Json measure_engine_speed(Engine& engine, const EngineBench& bench, Console& console);

// A table of them.
std::string engine_speed_table(const Json& speed);

}  // namespace osp
