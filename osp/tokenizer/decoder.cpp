#include "osp/tokenizer/decoder.h"

#include <utility>

#include "osp/tokenizer/regex.h"
#include "osp/tokenizer/utf8.h"

namespace osp::tokenizer {
namespace {

std::string join(const std::vector<std::string>& tokens, std::string_view between) {
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0) text += between;
    text += tokens[i];
  }
  return text;
}

// Tokens in the byte-level alphabet become their bytes, all others stay as they are.
void decode_byte_level(std::vector<std::string>& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) {
    if (!append_from_byte_alphabet(token, bytes)) bytes += token;
  }
  tokens.assign(1, std::move(bytes));
}

void decode_metaspace(std::vector<std::string>& tokens, const std::string& mark, bool drop_first) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const std::string_view space = i == 0 && drop_first ? "" : " ";
    std::string text;
    size_t done = 0;
    for (size_t at = tokens[i].find(mark); at != std::string::npos;
         at = tokens[i].find(mark, done)) {
      text.append(tokens[i], done, at - done).append(space);
      done = at + mark.size();
    }
    tokens[i] = text.append(tokens[i], done);
  }
}

// The byte of a token "<0x0A>", or -1.
int fallback_byte(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (const char c : {token[3], token[4]}) {
    const char lower = static_cast<char>(c | 0x20);
    if (c >= '0' && c <= '9') {
      value = value * 16 + (c - '0');
    } else if (lower >= 'a' && lower <= 'f') {
      value = value * 16 + (lower - 'a' + 10);
    } else {
      return -1;
    }
  }
  return value;
}

// Runs of byte tokens become one token if they are UTF-8 together, else one U+FFFD each.
void decode_byte_fallback(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (valid_utf8_prefix(bytes) == bytes.size()) {
      out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const int byte = fallback_byte(token); byte >= 0) {
      bytes.push_back(static_cast<char>(byte));
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(out);
}

// Takes up to `start` copies of `mark` from the front of `text` and up to `stop` from its end.
void strip(std::string& text, const std::string& mark, int64_t start, int64_t stop) {
  std::string_view rest = text;
  for (int64_t i = 0; i < start && rest.starts_with(mark); ++i) rest.remove_prefix(mark.size());
  for (int64_t i = 0; i < stop && rest.ends_with(mark); ++i) rest.remove_suffix(mark.size());
  text = std::string(rest);
}

}  // namespace

Decoder::Decoder(const Component& component) : present_(true) { add(component); }

void Decoder::add(const Component& component) {
  const std::string type = component.type();
  if (type == "Sequence") {
    for (const Component& part : component.list("decoders")) add(part);
  } else if (type == "ByteLevel") {
    steps_.push_back(
        [](std::vector<std::string>& tokens, bool, const Growth&) { decode_byte_level(tokens); });
  } else if (type == "Metaspace") {
    const std::string mark = component.text("replacement");
    if (mark.empty()) fail(ErrorCode::damaged, "{}: replacement is empty", component.where);
    const std::string before = component.flag("add_prefix_space", true) ? "always" : "never";
    const bool drop_first = component.text("prepend_scheme", before) != "never";
    steps_.push_back([=](std::vector<std::string>& tokens, bool inside, const Growth&) {
      decode_metaspace(tokens, mark, drop_first && !inside);
    });
  } else if (type == "Replace") {
    steps_.push_back(
        [pattern = Pattern(component), content = component.text("content"),
         where = component.where](std::vector<std::string>& tokens, bool, const Growth& limit) {
          Growth growth = limit;
          for (std::string& token : tokens) {
            token = pattern.replace(token, content, growth);
            growth.add(token.size(), where);
          }
        });
  } else if (type == "ByteFallback") {
    steps_.push_back([](std::vector<std::string>& tokens, bool, const Growth&) {
      decode_byte_fallback(tokens);
    });
  } else if (type == "Fuse") {
    steps_.push_back([](std::vector<std::string>& tokens, bool, const Growth&) {
      tokens.assign(1, join(tokens, ""));
    });
  } else if (type == "Strip") {
    const std::string mark = component.text("content");
    if (mark.empty()) fail(ErrorCode::damaged, "{}: content is empty", component.where);
    const int64_t start = component.integer("start", 0, INT32_MAX);
    const int64_t stop = component.integer("stop", 0, INT32_MAX);
    steps_.push_back([=](std::vector<std::string>& tokens, bool inside, const Growth&) {
      if (inside) return;
      for (std::string& token : tokens) strip(token, mark, start, stop);
    });
  } else {
    component.unsupported("decoder",
                          "ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip, Sequence");
  }
}

std::string Decoder::decode(std::vector<std::string> tokens, bool inside) const {
  size_t bytes = 0;
  for (const std::string& token : tokens) bytes += token.size();
  const Growth limit(bytes);
  for (const Step& step : steps_) step(tokens, inside, limit);
  return join(tokens, present_ ? "" : " ");
}

}  // namespace osp::tokenizer
