#include "osp/eval/token_source.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string_view>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/data/dataset.h"
#include "osp/data/document_text.h"
#include "osp/data/object_store.h"

namespace osp {
namespace {

// Of the hub's rows joined by blank lines; the published count of GPT-2's tokens, 287,644, is of
// it.
constexpr int64_t kWikitext2Characters = 1'294'336;

int64_t num_code_points(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

bool has_shards(const std::string& data) {
  return names_token_shards(data) ||
         (!is_store_uri(data) && data.find_first_of("*?") != std::string::npos);
}

TokenDataset open_held_out(const std::string& data) {
  const std::string index = "index.json";
  std::string folder = data;
  if (!is_store_uri(data) && data.ends_with(index))
    folder = data.substr(0, data.size() - index.size()) + ".";
  return TokenDataset::open(folder, "validation");
}

void check_text_readable(const TokenSource& source, const std::string& data,
                         const std::string& model_dir) {
  if (!is_store_uri(data) && !path_exists(data)) {
    fail(ErrorCode::usage,
         "{}: no such file; --data takes token shards, or a file of text, JSON lines or Parquet",
         data);
  }
  if (!source.tokenizer) {
    fail(ErrorCode::usage,
         "{}: no tokenizer.json, which is needed to read the text {}; copy it there or give shards",
         model_dir, data);
  }
}

// Encodes a text as the source's tokens; `data` is its name in errors.
void encode_text(TokenSource& source, const std::string& text, const std::string& data,
                 int64_t max_tokens) {
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
    fail(ErrorCode::unsupported, "{}: the text is empty; expected words to score", data);
  }
  const std::vector<int32_t> ids = source.tokenizer->encode(text);
  const size_t limit = static_cast<size_t>(max_tokens);
  source.tokens.assign(ids.begin(),
                       max_tokens > 0 && limit < ids.size() ? ids.begin() + max_tokens : ids.end());
}

void read_shards(TokenSource& source, const std::string& data, int64_t max_tokens) {
  const TokenDataset dataset = open_held_out(data);
  source.tokens = dataset.first_tokens(static_cast<uint64_t>(max_tokens));
  if (source.tokenizer && !dataset.tokenizer_json().empty() &&
      dataset.tokenizer_json() != source.tokenizer->json()) {
    source.warning =
        data + ": made with another tokenizer.json than the model's; its ids may mean other tokens";
  }
}

void read_text(TokenSource& source, const std::string& data, const std::string& model_dir,
               int64_t max_tokens) {
  check_text_readable(source, data, model_dir);
  encode_text(source, read_document_text(data, "text", std::numeric_limits<uint64_t>::max()), data,
              max_tokens);
}

// The file with WikiText-2's test text at `data`: it, or the one in that folder.
std::string wikitext2_file(const std::string& data) {
  if (!is_directory(data)) return data;
  const std::string parquet = "test-00000-of-00001.parquet";
  for (const std::string& name :
       {std::string("wiki.test.raw"), parquet, "wikitext-2-raw-v1/" + parquet}) {
    if (path_exists(data + "/" + name)) return data + "/" + name;
  }
  fail(ErrorCode::usage,
       "{}: neither wiki.test.raw nor (wikitext-2-raw-v1/){} is there; give the folder or file of "
       "WikiText-2's raw test text",
       data, parquet);
}

// The hub's rows of a raw file, joined by blank lines.
std::string joined_rows(std::string_view raw) {
  std::string text;
  for (size_t begin = 0; begin < raw.size();) {
    const size_t end = std::min(raw.find('\n', begin), raw.size());
    const std::string_view line = raw.substr(begin, end - begin);
    if (begin > 0) text += "\n\n";
    if (line.find_first_not_of(" \r") != std::string_view::npos) {
      text += line.substr(0, line.find_last_not_of('\r') + 1);
      text += '\n';
    }
    begin = end + 1;
  }
  return text;
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

TokenSource read_wikitext2(const std::string& data, const std::string& model_dir) {
  const std::string file = wikitext2_file(data);
  TokenSource source;
  if (Tokenizer::exists(model_dir)) source.tokenizer = Tokenizer::from_file(model_dir);
  check_text_readable(source, file, model_dir);
  std::string text = read_document_text(file, "text", std::numeric_limits<uint64_t>::max());
  if (text.find(" <unk> ") != std::string::npos) {
    fail(ErrorCode::usage,
         "{}: is the tokenised text of WikiText-2, with <unk> for rare words; the reference scores "
         "the raw one (wiki.test.raw)",
         file);
  }
  if (!has_documents(file)) text = joined_rows(text);
  if (num_code_points(text) != kWikitext2Characters) {
    source.warning = fmt::format(
        "{}: {} characters where WikiText-2's test text has {}; perplexities of it do not compare "
        "with published ones",
        file, num_code_points(text), kWikitext2Characters);
  }
  encode_text(source, text, file, 0);
  return source;
}

}  // namespace osp
