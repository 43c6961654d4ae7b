// Generation of text with a key-value cache.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "osp/model/next_token.h"
#include "osp/model/parameters.h"
#include "osp/model/sampling.h"
#include "osp/model/tap.h"
#include "osp/model/token_penalties.h"
#include "osp/tokenizer/tokenizer.h"

namespace osp {

struct GenerateOptions {
  int64_t max_tokens = 128;
  SamplingOptions sampling = {};
  PenaltyOptions penalties = {};
  uint64_t seed = 0;                     // of the Philox stream "generate"; number i is for token i
  std::vector<std::string> stop = {};    // the text ends before the first of these
  std::vector<int64_t> end_tokens = {};  // beside the tokenizer's end-of-document token
  Tap* tap = nullptr;                    // in every forward pass, e.g. FakeQuantTap
  bool rendered = false;                 // the prompt has its special tokens: none is added

  template <class Visitor, class Self>
  static void fields(Visitor& visit, Self& self) {
    visit.group("Length");
    visit("max_tokens", self.max_tokens, Range{0, 1099511627776.0},
          "largest number of tokens to generate");
    visit("stop", self.stop, "string at which the text ends, itself not printed");
    SamplingOptions::fields(visit, self.sampling);
    PenaltyOptions::fields(visit, self.penalties);
    visit("seed", self.seed, Range{}, "seed of the random numbers that choose tokens");
  }
};

struct Generation {
  std::vector<int32_t> prompt_tokens;
  std::vector<int32_t> tokens;  // generated, without the end token
  std::string text;             // of `tokens`, up to a stop string
  std::string finish;           // "end" (end token), "stop" (stop string) or "length"
  int64_t context = 0;          // tokens that the model could see at a time
  int64_t dropped = 0;          // tokens that fell out of it
  double seconds = 0;
  double prompt_seconds = 0;  // of these, until the first token
};

// Error(memory) if this machine cannot hold so many bytes for the keys and values of a text.
void require_cache_memory(double bytes, int64_t tokens);

// The reader of a model in a store, with its tap, for texts of up to `tokens` tokens: the tap's
// engine where it has one. Error(memory) if this machine cannot hold so many.
std::unique_ptr<NextToken> make_reader(const ParameterStore& store, int64_t tokens, Tap* tap);

// Continues `prompt`. `on_text` gets the text in pieces of whole characters as it comes. An empty
// prompt starts a new document (the end-of-document token is the context).
//
// Context: at most config.context tokens are seen at a time. When they are full, the oldest are
// dropped so that half of the context remains, which is read again from position 0; a longer prompt
// is treated alike. Error(damaged) if the tokenizer gives ids that the model does not have.
Generation generate(NextToken& model, const ModelConfig& config, const Tokenizer& tokenizer,
                    const std::string& prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& on_text = {});
Generation generate(const ParameterStore& store, const Tokenizer& tokenizer,
                    const std::string& prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& on_text = {});

}  // namespace osp
