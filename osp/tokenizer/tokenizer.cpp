#include "osp/tokenizer/tokenizer.h"

#include <atomic>
#include <filesystem>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/file.h"
#include "osp/base/sha256.h"
#include "osp/tokenizer/added.h"
#include "osp/tokenizer/bpe.h"
#include "osp/tokenizer/cache.h"
#include "osp/tokenizer/decoder.h"
#include "osp/tokenizer/gguf.h"
#include "osp/tokenizer/json.h"
#include "osp/tokenizer/normalizer.h"
#include "osp/tokenizer/post.h"
#include "osp/tokenizer/pretokenizer.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace tokenizer {
namespace {

constexpr size_t kMaxFileBytes = 256u << 20;
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581, SentencePiece's space

uint64_t next_serial() {
  static std::atomic<uint64_t> serial{0};
  return ++serial;
}

Bpe read_model(const Component& file) {
  const Component model = file.child("model");
  if (!model.json.is_object()) {
    fail(ErrorCode::damaged, "{}: {}, expected an object", model.where, model.json.type_name());
  }
  // Files written before models had types are BPE if they have merges.
  const bool untyped = !model.has("type") && model.has("merges");
  if (!untyped && model.type() != "BPE") model.unsupported("model", "BPE");
  return Bpe(model);
}

template <class Part>
Part read_part(const Component& file, const char* key) {
  return file.has(key) ? Part(file.child(key)) : Part();
}

}  // namespace
}  // namespace tokenizer

using tokenizer::AddedToken;
using tokenizer::Component;
using tokenizer::WordCache;

struct Tokenizer::State {
  State(const Component& file, std::string_view text)
      : json(text),
        hash(sha256_hex(text)),
        model(tokenizer::read_model(file)),
        normalizer(tokenizer::read_part<tokenizer::Normalizer>(file, "normalizer")),
        pre_tokenizer(tokenizer::read_part<tokenizer::PreTokenizer>(file, "pre_tokenizer")),
        post_processor(tokenizer::read_part<tokenizer::PostProcessor>(file, "post_processor")),
        decoder(tokenizer::read_part<tokenizer::Decoder>(file, "decoder")),
        added(file, model, normalizer),
        serial(tokenizer::next_serial()) {
    const bool bytes = pre_tokenizer.can_use_bytes() && model.use_bytes();
    if (bytes) pre_tokenizer.use_bytes();
    cut_at_spaces = !bytes && model.may_cut_before(tokenizer::kSpaceMark);
  }

  // Text between added tokens, normalized already. `start` as in Piece.
  void encode_text(std::string_view text, size_t start, tokenizer::Growth& growth,
                   std::vector<int32_t>& ids) const;
  void encode_words(std::string_view text, WordCache& cache, std::vector<int32_t>& ids) const;
  void encode_word(std::string_view word, WordCache& cache, std::vector<int32_t>& ids) const;
  // The token's string, or nullptr.
  const std::string* token(int32_t id) const;

  std::string json;
  std::string hash;
  tokenizer::Bpe model;
  tokenizer::Normalizer normalizer;
  tokenizer::PreTokenizer pre_tokenizer;
  tokenizer::PostProcessor post_processor;
  tokenizer::Decoder decoder;
  tokenizer::AddedTokens added;
  uint64_t serial;     // number of this tokenizer among all of the process
  bool cut_at_spaces;  // long words may be cut before U+2581 without changing any id
};

void Tokenizer::State::encode_word(std::string_view word, WordCache& cache,
                                   std::vector<int32_t>& ids) const {
  if (word.size() > WordCache::kMaxWordBytes) return model.encode(word, ids);
  bool hit = false;
  WordCache::Entry& entry = cache.look_up(word, &hit);
  if (hit) {
    ids.insert(ids.end(), entry.ids, entry.ids + entry.num_ids);
    return;
  }
  const size_t before = ids.size();
  model.encode(word, ids);
  const size_t count = ids.size() - before;
  if (count > WordCache::kMaxIds) {
    entry.num_bytes = 0;
    return;
  }
  std::copy(ids.begin() + static_cast<ptrdiff_t>(before), ids.end(), entry.ids);
  entry.num_ids = static_cast<uint8_t>(count);
}

void Tokenizer::State::encode_words(std::string_view text, WordCache& cache,
                                    std::vector<int32_t>& ids) const {
  const std::string_view mark = tokenizer::kSpaceMark;
  while (cut_at_spaces) {
    size_t end = 0;  // behind the marks that the text starts with
    while (text.substr(end).starts_with(mark)) end += mark.size();
    end = text.find(mark, end);
    if (end == std::string_view::npos) break;
    encode_word(text.substr(0, end), cache, ids);
    text.remove_prefix(end);
  }
  encode_word(text, cache, ids);
}

void Tokenizer::State::encode_text(std::string_view text, size_t start, tokenizer::Growth& growth,
                                   std::vector<int32_t>& ids) const {
  WordCache& cache = WordCache::of_thread(serial);
  pre_tokenizer.for_each_word(text, start, growth,
                              [&](std::string_view word) { encode_words(word, cache, ids); });
}

const std::string* Tokenizer::State::token(int32_t id) const {
  const AddedToken* special = added.find(id);
  return special ? &special->decoded : model.token(id);
}

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& where) {
  const tokenizer::SortedJson root = tokenizer::parse_tokenizer_json(json, where);
  return Tokenizer(std::make_unique<State>(Component{root, where}, json));
}

Tokenizer Tokenizer::from_file(const std::string& path) {
  if (is_gguf_path(path)) {
    return from_json(gguf_tokenizer_json(GgufFile::open(path).metadata()), path);
  }
  const std::string file =
      is_directory(path) ? (std::filesystem::path(path) / "tokenizer.json").string() : path;
  return from_json(read_file(file, tokenizer::kMaxFileBytes), file);
}

bool Tokenizer::exists(const std::string& path) {
  if (is_gguf_path(path)) return gguf_has_tokenizer(GgufFile::open(path).metadata());
  return path_exists((std::filesystem::path(path) / "tokenizer.json").string());
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  encode_append(text, options, ids);
  return ids;
}

void Tokenizer::encode_append(std::string_view text, const EncodeOptions& options,
                              std::vector<int32_t>& ids) const {
  const State& state = *state_;
  const size_t from = ids.size();
  std::string repaired;
  if (tokenizer::valid_utf8_prefix(text) != text.size()) {
    repaired = tokenizer::replace_invalid_utf8(text);
    text = repaired;
  }
  tokenizer::Growth normalized(text.size()), cut(text.size());
  // Text without the added tokens that are searched in the original; `start` as in Piece.
  const auto encode_normalized = [&](std::string_view whole, size_t start) {
    state.added.split(whole, true, [&](std::string_view part, int32_t id) {
      if (id >= 0) {
        ids.push_back(id);
        return;
      }
      const auto at = static_cast<size_t>(part.data() - whole.data());
      state.encode_text(part, start > at ? start - at : 0, cut, ids);
    });
  };
  state.added.split(text, false, [&](std::string_view part, int32_t id) {
    if (id >= 0) {
      ids.push_back(id);
      return;
    }
    size_t start = 0;
    if (part.data() == text.data() && !part.empty()) {
      const char* p = part.data();
      tokenizer::next_character(p);
      start = static_cast<size_t>(p - part.data());
    }
    if (state.normalizer.empty()) return encode_normalized(part, start);
    const std::string rewritten = state.normalizer.apply(std::string(part), normalized, &start);
    encode_normalized(rewritten, start);
  });
  if (options.add_special_tokens) state.post_processor.apply(ids, from);
}

std::vector<int32_t> Tokenizer::front_tokens() const {
  std::vector<int32_t> ids;
  state_->post_processor.apply(ids, 0);
  ids.resize(state_->post_processor.num_before());
  return ids;
}

std::vector<int32_t> Tokenizer::encode_prompt(std::string_view text) const {
  std::vector<int32_t> ids = encode(text, {.add_special_tokens = true});
  ids.resize(ids.size() - state_->post_processor.num_after());
  if (ids.empty() && end_of_document() >= 0) ids.push_back(end_of_document());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::vector<std::string> tokens;
  tokens.reserve(ids.size());
  for (const int32_t id : ids) {
    const std::string* token = state_->token(id);
    if (token == nullptr) continue;
    // As in the package by its text: a special token that normalization spells otherwise stays.
    const AddedToken* named =
        skip_special_tokens ? state_->added.find(std::string_view(*token)) : nullptr;
    if (named == nullptr || !named->special) tokens.push_back(*token);
  }
  return state_->decoder.decode(std::move(tokens));
}

std::string Tokenizer::token_text(int32_t id) const {
  const std::string* token = state_->token(id);
  return token ? state_->decoder.decode({*token}, true) : std::string();
}

int64_t Tokenizer::vocabulary() const {
  return int64_t{std::max(state_->model.largest_id(), state_->added.largest_id())} + 1;
}

int32_t Tokenizer::token_id(std::string_view content) const {
  const AddedToken* added = state_->added.find(content);
  return added ? added->id : state_->model.id(content);
}

int32_t Tokenizer::end_of_document() const {
  for (const char* name :
       {"<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "[SEP]"}) {
    const AddedToken* token = state_->added.find(std::string_view(name));
    if (token && token->special) return token->id;
  }
  return -1;
}

const std::string& Tokenizer::hash() const { return state_->hash; }
const std::string& Tokenizer::json() const { return state_->json; }

}  // namespace osp
