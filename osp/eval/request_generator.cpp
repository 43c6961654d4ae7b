#include "osp/eval/request_generator.h"

#include <ATen/ops/argmax.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <optional>

#include "osp/base/error.h"
#include "osp/eval/prefix_groups.h"
#include "osp/eval/request_limits.h"
#include "osp/model/text_stream.h"
#include "osp/model/transformer.h"
#include "osp/tokenizer/utf8.h"

namespace osp {
namespace {

constexpr int64_t kMostRows = 64;           // rows per batch
constexpr int64_t kCacheBytes = 1ll << 30;  // cache per batch of more than one row

// A request while it is answered.
struct Row {
  const GenerationRequest* request = nullptr;
  GeneratedText* result = nullptr;
  TokenSpan context;     // after the cut
  KeyRange shared, own;  // rows of the cache that hold its tokens so far
  std::optional<TextStream> stream;
  int32_t newest = 0;  // generated, not yet in the cache

  std::vector<KeyRange> ranges() const {
    std::vector<KeyRange> ranges;
    for (const KeyRange& range : {shared, own}) {
      if (range.length > 0) ranges.push_back(range);
    }
    return ranges;
  }
};

// Reads texts into a packed cache, at most `batch_tokens` at a time.
class PackedReader {
 public:
  PackedReader(const ParameterStore& store, Tap* tap, int64_t capacity, int64_t batch_tokens)
      : store_(store),
        tap_(tap),
        batch_tokens_(std::max<int64_t>(1, batch_tokens)),
        cache_(make_kv_cache(store, 1, capacity)) {}

  // Queues tokens that follow `context` for the cache slots from `slot` on; finish() returns the
  // state after the last of them if `wanted`.
  void add(TokenSpan tokens, int64_t slot, std::vector<KeyRange> context, bool wanted) {
    context.push_back({slot, 0});
    while (!tokens.empty()) {
      const int64_t room = batch_tokens_ - static_cast<int64_t>(tokens_.size());
      const TokenSpan part =
          tokens.first(std::min(tokens.size(), static_cast<size_t>(std::max<int64_t>(room, 1))));
      KeyRange& read = context.back();
      std::vector<KeyRange> seen = context;
      if (read.length == 0) seen.pop_back();
      segments_.push_back({static_cast<int64_t>(part.size()), slot + read.length, seen});
      tokens_.insert(tokens_.end(), part.begin(), part.end());
      read.length += static_cast<int64_t>(part.size());
      tokens = tokens.subspan(part.size());
      if (wanted && tokens.empty()) rows_.push_back(static_cast<int64_t>(tokens_.size()) - 1);
      if (static_cast<int64_t>(tokens_.size()) >= batch_tokens_) run();
    }
  }

  // The wanted states of everything that was queued since the last call, [rows, D].
  at::Tensor finish() {
    run();
    const at::Tensor states = at::cat(states_);
    states_.clear();
    return states;
  }

 private:
  void run() {
    if (tokens_.empty()) return;
    ForwardOptions options;
    options.tap = tap_;
    options.cache = &cache_;
    options.segments = segments_;
    const at::Device device = store_.banks.front().master.device();
    const at::Tensor hidden =
        forward_hidden(store_, at::tensor(tokens_).unsqueeze(0).to(device), options)[0];
    if (!rows_.empty()) states_.push_back(hidden.index_select(0, at::tensor(rows_).to(device)));
    tokens_.clear();
    segments_.clear();
    rows_.clear();
  }

  const ParameterStore& store_;
  Tap* tap_;
  int64_t batch_tokens_;
  KvCache cache_;
  std::vector<int64_t> tokens_;
  std::vector<Segment> segments_;
  std::vector<int64_t> rows_;
  std::vector<at::Tensor> states_;
};

std::vector<int32_t> most_likely(const ParameterStore& store, const at::Tensor& states_RD,
                                 int64_t drawable, Tap* tap) {
  const at::Tensor logits_RV = logits_of_hidden(store, states_RD, tap);
  const at::Tensor ids = at::argmax(logits_RV.narrow(1, 0, drawable), 1).cpu();
  const int64_t* first = ids.const_data_ptr<int64_t>();
  return {first, first + ids.numel()};
}

// Adds a token to a row's text; false if it ends the text.
bool continues(Row& row, int32_t id, const std::vector<int64_t>& end_tokens) {
  GeneratedText& result = *row.result;
  bool more = std::find(end_tokens.begin(), end_tokens.end(), id) == end_tokens.end();
  if (more) {
    result.tokens.push_back(id);
    result.text += row.stream->add(id);
    row.newest = id;
    more = !row.stream->stopped() &&
           static_cast<int64_t>(result.tokens.size()) < row.request->max_tokens;
  }
  if (!more) result.text += row.stream->finish();
  return more;
}

// Answers the rows of one batch; calls `leaves` with the number of rows that end at each step.
void generate_batch(const ParameterStore& store, const Tokenizer& tokenizer, std::vector<Row> rows,
                    std::span<const PrefixGroup> groups, const ScoreOptions& options,
                    const std::function<void(int64_t)>& leaves) {
  // Lay out the cache: each group's shared beginning, then each row's own tokens and those to come.
  int64_t capacity = 0;
  for (const PrefixGroup& group : groups) {
    const KeyRange shared{capacity, group.shared};
    capacity += group.shared;
    for (int64_t i = group.first; i < group.first + group.count; ++i) {
      Row& row = rows[static_cast<size_t>(i)];
      row.shared = shared;
      row.own = {capacity, static_cast<int64_t>(row.context.size()) - group.shared};
      capacity += row.own.length + row.request->max_tokens;
    }
  }
  // Read all contexts.
  PackedReader reader(store, options.tap, capacity, options.batch_tokens);
  for (const PrefixGroup& group : groups) {
    const Row& first = rows[static_cast<size_t>(group.first)];
    const size_t shared = static_cast<size_t>(group.shared);
    reader.add(first.context.first(shared), first.shared.begin, {}, false);
    for (int64_t i = group.first; i < group.first + group.count; ++i) {
      const Row& row = rows[static_cast<size_t>(i)];
      std::vector<KeyRange> context;
      if (group.shared > 0) context.push_back(row.shared);
      reader.add(row.context.subspan(shared), row.own.begin, context, true);
    }
  }
  // Generate token by token; rows leave as they end. Ids of the head beyond the tokenizer's
  // vocabulary are padding and never drawn.
  const int64_t drawable = std::min(store.config.vocabulary, tokenizer.vocabulary());
  std::vector<int64_t> end_tokens = options.end_tokens;
  end_tokens.push_back(tokenizer.end_of_document());
  while (!rows.empty()) {
    const std::vector<int32_t> ids = most_likely(store, reader.finish(), drawable, options.tap);
    std::vector<Row> remaining;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (continues(rows[i], ids[i], end_tokens)) {
        remaining.push_back(std::move(rows[i]));
      }
    }
    leaves(static_cast<int64_t>(rows.size() - remaining.size()));
    rows = std::move(remaining);
    for (Row& row : rows) {
      reader.add(TokenSpan(&row.newest, 1), row.own.begin + row.own.length, row.ranges(), true);
      ++row.own.length;
    }
  }
}

Row row_of(const ParameterStore& store, const Tokenizer& tokenizer,
           const GenerationRequest& request, size_t number, GeneratedText& result) {
  check_request_ids(request.context, store.config.vocabulary, number);
  Row row;
  row.request = &request;
  row.result = &result;
  row.context = cut_context(request.context, request.max_tokens, store.config.context, number);
  result.cut = static_cast<int64_t>(request.context.size() - row.context.size());
  const RopeScaling& scaling = store.config.rope_scaling;
  const int64_t most = static_cast<int64_t>(row.context.size()) + request.max_tokens;
  if (scaling.type == "longrope" && beyond_original(scaling, most)) {
    fail(
        ErrorCode::unsupported,
        "request {}: a context of {} tokens and up to {} more pass the {} tokens beyond which the "
        "rotary embedding (longrope) of the model has other factors, for the whole text; many "
        "texts at a time are generated within these alone. Give shorter contexts (fewer shots), or "
        "use osp generate, which reads such a text again (of a quantized folder with --engine "
        "simulated)",
        number, row.context.size(), request.max_tokens, scaling.original_context);
  }
  row.stream.emplace(
      [&tokenizer](std::span<const int32_t> ids) {
        return osp::tokenizer::replace_invalid_utf8(tokenizer.decode(ids, true));
      },
      row.context, request.stop);
  return row;
}

}  // namespace

std::vector<GeneratedText> generate_greedy(const ParameterStore& store, const Tokenizer& tokenizer,
                                           std::span<const GenerationRequest> requests,
                                           const ScoreOptions& options) {
  const c10::NoGradGuard no_graph;
  std::vector<GeneratedText> results(requests.size());
  // Rows in lexicographic order of their contexts, so that those that begin alike are neighbours.
  std::vector<Row> rows;
  for (size_t i = 0; i < requests.size(); ++i) {
    Row row = row_of(store, tokenizer, requests[i], i, results[i]);
    if (requests[i].max_tokens > 0) rows.push_back(std::move(row));
  }
  std::vector<TokenSpan> contexts;
  for (const Row& row : rows) contexts.push_back(row.context);
  const std::vector<int64_t> order = lexicographic_order(contexts);

  // Keys and values of one token in all layers.
  const ModelConfig& config = store.config;
  const int64_t token_bytes = 2 * config.layers * config.kv_heads * config.head_size *
                              store.banks.front().compute.element_size();
  int64_t done = static_cast<int64_t>(requests.size() - rows.size());
  const auto leaves = [&](int64_t count) {
    done += count;
    if (count > 0 && options.progress) {
      options.progress(done, static_cast<int64_t>(requests.size()));
    }
  };
  // Batch by batch, as many rows as the cache's limits allow.
  for (size_t next = 0; next < order.size();) {
    PrefixGrouper grouper;
    std::vector<Row> batch;
    int64_t tokens = 0;
    for (; next < order.size() && static_cast<int64_t>(batch.size()) < kMostRows; ++next) {
      Row& row = rows[static_cast<size_t>(order[next])];
      const int64_t more = grouper.cost(row.context) + row.request->max_tokens;
      if (!batch.empty() && (tokens + more) * token_bytes > kCacheBytes) break;
      grouper.add(row.context);
      tokens += more;
      batch.push_back(std::move(row));
    }
    generate_batch(store, tokenizer, std::move(batch), grouper.groups(), options, leaves);
  }
  return results;
}

}  // namespace osp
