#include "osp/eval/token_source.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/data/dataset.h"
#include "osp/data/document_text.h"

namespace osp {
namespace {

bool has_shards(const std::string& data) {
  return is_directory(data) || data.ends_with(".bin") || data.ends_with("index.json") ||
         data.find_first_of("*?") != std::string::npos;
}

TokenDataset open_held_out(const std::string& data) {
  const std::string index = "index.json";
  std::string folder = data;
  if (data.ends_with(index)) folder = data.substr(0, data.size() - index.size()) + ".";
  return TokenDataset::open(folder, "validation");
}

void read_shards(TokenSource& source, const std::string& data, int64_t max_tokens) {
  const TokenDataset dataset = open_held_out(data);
  uint64_t count = dataset.num_tokens();
  if (max_tokens > 0) count = std::min(count, static_cast<uint64_t>(max_tokens));
  source.tokens.resize(count);
  dataset.copy(0, source.tokens);
  if (source.tokenizer && !dataset.tokenizer_json().empty() &&
      dataset.tokenizer_json() != source.tokenizer->json()) {
    source.warning =
        data + ": made with another tokenizer.json than the model's; its ids may mean other tokens";
  }
}

void read_text(TokenSource& source, const std::string& data, const std::string& model_dir,
               int64_t max_tokens) {
  if (!path_exists(data)) {
    fail(ErrorCode::usage,
         "{}: no such file; --data takes token shards, or a file of text, JSON lines or Parquet",
         data);
  }
  if (!source.tokenizer) {
    fail(ErrorCode::usage,
         "{}: no tokenizer.json, which is needed to read the text {}; copy it there or give shards",
         model_dir, data);
  }
  const std::string text = read_document_text(data, "text", std::numeric_limits<uint64_t>::max());
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
    fail(ErrorCode::unsupported, "{}: the text is empty; expected words to score", data);
  }
  const std::vector<int32_t> ids = source.tokenizer->encode(text);
  const size_t limit = static_cast<size_t>(max_tokens);
  source.tokens.assign(ids.begin(),
                       max_tokens > 0 && limit < ids.size() ? ids.begin() + max_tokens : ids.end());
}

}  // namespace

int64_t scored_bytes(const Tokenizer& tokenizer, std::span<const int64_t> tokens, int64_t window,
                     int64_t windows) {
  int64_t bytes = 0;
  for (int64_t i = 0; i < windows; ++i) {
    const auto part = tokens.subspan(static_cast<size_t>(i * window), static_cast<size_t>(window));
    const std::vector<int32_t> ids(part.begin(), part.end());
    bytes += static_cast<int64_t>(tokenizer.decode(ids).size());
    bytes -= static_cast<int64_t>(tokenizer.decode(std::span(ids).first(1)).size());
  }
  return bytes;
}

TokenSource read_token_source(const std::string& data, const std::string& model_dir,
                              int64_t max_tokens) {
  TokenSource source;
  if (Tokenizer::exists(model_dir)) {
    source.tokenizer = Tokenizer::from_file(model_dir);
  }
  if (has_shards(data)) {
    read_shards(source, data, max_tokens);
  } else {
    read_text(source, data, model_dir, max_tokens);
  }
  return source;
}

}  // namespace osp
