// Decoders of a tokenizer.json: from the tokens' strings back to text.
// ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, Sequence.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "osp/data/tokenizer_json.h"

namespace osp::tokenizer {

class Decoder {
 public:
  Decoder() = default;  // tokens are joined by spaces
  // Error(unsupported) naming an unknown type.
  explicit Decoder(const Component& component);

  // The text of `tokens`. With `inside`, they follow others: what a decoder does at the start of a
  // text (dropping the first space) is left out.
  std::string decode(std::vector<std::string> tokens, bool inside = false) const;

 private:
  using Step = std::function<void(std::vector<std::string>&, bool inside)>;
  void add(const Component& component);
  std::vector<Step> steps_;
  bool present_ = false;
};

}  // namespace osp::tokenizer
