// Feeds arbitrary bytes to three small tokenizers: byte-level, byte-level after Digits and NFC, and
// SentencePiece-like with byte fallback. Encoding twice (the second time from the cache) must give
// the same ids, ids must be in the vocabulary, and the byte-level one must restore the text.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "osp/base/error.h"
#include "osp/tokenizer/test_files.h"
#include "osp/tokenizer/tokenizer.h"

namespace {

using osp::Tokenizer;
using osp::tokenizer::SortedJson;

SortedJson byte_level_file() {
  SortedJson file = osp::tokenizer::test_file(osp::tokenizer::test_model(
      osp::tokenizer::test_byte_alphabet(), {"\xC4\xA0 t", "h e", "\xC4\xA0t he", "a a", "aa aa",
                                             "\xC3\x83 \xC2\xA9", "\xC4\xA0 \xC4\xA0"}));
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  file["decoder"] = {{"type", "ByteLevel"}};
  return file;
}

Tokenizer byte_level() { return Tokenizer::from_json(byte_level_file().dump(), "byte level"); }

Tokenizer digits() {
  SortedJson file = byte_level_file();
  file["normalizer"] = {{"type", "NFC"}};
  file["pre_tokenizer"] = SortedJson::parse(R"({"type": "Sequence", "pretokenizers": [
      {"type": "Digits", "individual_digits": true},
      {"type": "Split", "pattern": {"Regex": "\\s*[\\r\\n]+|\\p{L}+"}, "behavior": "Isolated"},
      {"type": "ByteLevel", "add_prefix_space": true}]})");
  file["added_tokens"] = SortedJson::parse(R"([
      {"id": 500, "content": "<x>", "lstrip": true, "rstrip": true, "normalized": false},
      {"id": 501, "content": "été", "single_word": true, "normalized": true}])");
  return Tokenizer::from_json(file.dump(), "digits");
}

Tokenizer byte_fallback() {
  std::vector<std::string> tokens{"<unk>", "a", "b", "\xE2\x96\x81"};
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(fmt::format("<0x{:02X}>", byte));
  SortedJson model = osp::tokenizer::test_model(
      tokens, {"\xE2\x96\x81 a", "a b", "\xE2\x96\x81 \xE2\x96\x81", "<0x0A> <0x0A>"});
  model["unk_token"] = "<unk>";
  model["byte_fallback"] = true;
  SortedJson file = osp::tokenizer::test_file(model);
  file["normalizer"] = SortedJson::parse(R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  file["decoder"] = SortedJson::parse(R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
      {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  return Tokenizer::from_json(file.dump(), "byte fallback");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Tokenizer kTokenizers[] = {byte_level(), digits(), byte_fallback()};
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const Tokenizer& tokenizer : kTokenizers) {
    const std::vector<int32_t> ids = tokenizer.encode(text);
    OSP_CHECK(tokenizer.encode(text) == ids, "ids from the cache differ");
    for (const int32_t id : ids) OSP_CHECK(id >= 0 && id < tokenizer.vocabulary(), "id {}", id);
    tokenizer.decode(ids);
  }
  const std::string back = kTokenizers[0].decode(kTokenizers[0].encode(text));
  const bool valid = osp::tokenizer::valid_utf8_prefix(text) == size;
  OSP_CHECK(back == (valid ? std::string(text) : osp::tokenizer::replace_invalid_utf8(text)),
            "byte-level text changed");
  return 0;
}
