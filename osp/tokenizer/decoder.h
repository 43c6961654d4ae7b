// Decoders of a tokenizer.json: from the tokens' strings back to text.
// ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, Sequence.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "osp/tokenizer/growth.h"
#include "osp/tokenizer/json.h"

namespace osp::tokenizer {

class Decoder {
 public:
  Decoder() = default;  // tokens are joined by spaces
  // Error(unsupported) naming an unknown type.
  explicit Decoder(const Component& component);

  // The text of `tokens`. With `inside`, they follow others: what a decoder does at the start of a
  // text (dropping the first space) is left out. Error(unsupported) if the text grows too long.
  std::string decode(std::vector<std::string> tokens, bool inside = false) const;

 private:
  // `limit` is what each step may make of the tokens.
  using Step = std::function<void(std::vector<std::string>&, bool inside, const Growth& limit)>;
  void add(const Component& component);
  std::vector<Step> steps_;
  bool present_ = false;
};

}  // namespace osp::tokenizer
