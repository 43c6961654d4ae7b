#include "osp/serve/scheduler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "osp/base/error.h"
#include "osp/base/philox.h"

namespace osp {
namespace {

using kernels::kPageTokens;

// Rows of a step: one pass through the layers.
constexpr int64_t kStepRows = 64;

int64_t pages_of(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

}  // namespace

struct Scheduler::Text {
  Text(TextRequest r, std::shared_ptr<TextListener> l, const TextModel& model)
      : request(std::move(r)),
        listener(std::move(l)),
        sequence(model.new_sequence()),
        random(request.seed, "generate", request.stream),
        penalties(request.penalties, request.prompt),
        ids(request.prompt) {
    // The last token that is written is not read.
    const auto prompt_tokens = static_cast<int64_t>(ids.size());
    most_pages = pages_of(std::max(prompt_tokens, prompt_tokens + request.max_tokens - 1));
  }
  bool in_prompt() const { return !prompt_done; }

  TextRequest request;
  std::shared_ptr<TextListener> listener;
  KvSequence sequence;
  RandomStream random;
  TokenPenalties penalties;
  std::vector<int32_t> ids;        // the prompt and what is written
  std::vector<std::string> chain;  // hashes of their whole pages
  size_t kept_pages = 0;           // of these, in the cache
  int64_t most_pages = 0;
  int64_t cached_tokens = 0;
  bool prompt_done = false;
  bool ended = false;
  std::vector<ScoredToken> prompt_scores;
};

Scheduler::Scheduler(TextModel& model, SchedulerOptions options)
    : model_(model), options_(std::move(options)), thread_([this] { run(); }) {}

Scheduler::~Scheduler() {
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

bool Scheduler::add(std::vector<std::pair<TextRequest, std::shared_ptr<TextListener>>> texts) {
  std::vector<std::unique_ptr<Text>> made;
  for (auto& [request, listener] : texts) {
    made.push_back(std::make_unique<Text>(std::move(request), std::move(listener), model_));
    OSP_CHECK(made.back()->most_pages <= options_.most_pages, "a text of {} pages, there are {}",
              made.back()->most_pages, options_.most_pages);
  }
  {
    const std::lock_guard lock(mutex_);
    if (static_cast<int64_t>(waiting_.size() + made.size()) > options_.most_waiting) return false;
    for (auto& text : made) waiting_.push_back(std::move(text));
    counts_.waiting = static_cast<int64_t>(waiting_.size());
  }
  changed_.notify_all();
  return true;
}

void Scheduler::run() {
  while (wait_for_work()) {
    drop_unwanted();
    admit();
    if (!active_.empty()) step();
    counts_.active = static_cast<int64_t>(active_.size());
    counts_.pages = model_.pages_in_use();
  }
}

// False when the scheduler ends.
bool Scheduler::wait_for_work() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return leaving_ || !active_.empty() || !waiting_.empty(); });
  return !leaving_;
}

void Scheduler::drop_unwanted() {
  const auto unwanted = [this](const std::unique_ptr<Text>& text) {
    if (text->listener->wanted()) return false;
    ++counts_.cancelled;
    return true;
  };
  for (const auto& text : active_) {
    if (unwanted(text)) end(*text);
  }
  std::erase_if(active_, [](const auto& text) { return text->ended; });
  const std::lock_guard lock(mutex_);
  std::erase_if(waiting_, unwanted);
  counts_.waiting = static_cast<int64_t>(waiting_.size());
}

// Begins texts in the order in which they came, while there are pages for them.
void Scheduler::admit() {
  const std::lock_guard lock(mutex_);
  while (!waiting_.empty() && static_cast<int64_t>(active_.size()) < options_.most_texts) {
    const int64_t needed = waiting_.front()->most_pages;
    if (promised_pages_ + needed > options_.most_pages) break;
    const int64_t excess = promised_pages_ + needed + cache_.idle_pages() - options_.most_pages;
    if (excess > 0) cache_.release(excess);
    promised_pages_ += needed;
    active_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
    ++counts_.texts;
  }
  counts_.waiting = static_cast<int64_t>(waiting_.size());
}

void Scheduler::end(Text& text) {
  text.ended = true;
  promised_pages_ -= text.most_pages;
}

// At a page's end more pages may have become known since, by a text that began earlier.
void Scheduler::adopt_pages(Text& text) {
  if (text.request.prompt_logprobs || text.sequence.length() % kPageTokens != 0) return;
  PrefixCache::extend_chain(text.ids, text.chain);
  // The last token is read in any case: its state gives the next.
  const size_t most = (text.ids.size() - 1) / static_cast<size_t>(kPageTokens);
  const auto held = static_cast<size_t>(text.sequence.length() / kPageTokens);
  PrefixCache::Pages pages = cache_.find(text.chain, most);
  if (pages.size() <= held) return;
  const auto tokens = static_cast<int64_t>(pages.size()) * kPageTokens;
  text.cached_tokens += tokens - text.sequence.length();
  text.kept_pages = pages.size();
  text.sequence = model_.new_sequence();
  text.sequence.adopt(std::move(pages), tokens);
}

void Scheduler::keep_pages(Text& text) {
  const auto whole = static_cast<size_t>(text.sequence.length() / kPageTokens);
  if (whole <= text.kept_pages) return;
  PrefixCache::extend_chain(text.ids, text.chain);
  cache_.keep(std::span(text.chain).first(whole), text.sequence.pages());
  text.kept_pages = whole;
}

// The parts that are read in this step: the newest token of each text, then prompts in the rows
// that are left.
std::vector<Scheduler::Part> Scheduler::plan() {
  std::vector<Part> parts;
  int64_t rows = kStepRows;
  for (const auto& text : active_) {
    if (text->in_prompt()) continue;
    parts.push_back({text.get(), std::span(text->ids).last(1)});
    --rows;
  }
  for (const auto& text : active_) {
    if (!text->in_prompt() || rows == 0) continue;
    adopt_pages(*text);
    const auto from = static_cast<size_t>(text->sequence.length());
    const size_t count = std::min(text->ids.size() - from, static_cast<size_t>(rows));
    parts.push_back({text.get(), std::span(text->ids).subspan(from, count)});
    rows -= static_cast<int64_t>(count);
  }
  return parts;
}

void Scheduler::step() {
  std::vector<Part> parts = plan();
  std::vector<EngineRun> runs;
  int64_t row = 0;
  for (Part& part : parts) {
    part.first_row = row;
    row += static_cast<int64_t>(part.tokens.size());
    runs.push_back({&part.text->sequence, part.tokens});
  }
  ++counts_.steps;
  std::optional<std::span<const float>> states;
  try {
    states = model_.read(runs);
  } catch (const std::exception&) {
    // One of them broke the pass.
  }
  if (states.has_value()) {
    take_results(parts, *states);
  } else {
    read_apart(parts);
  }
  std::erase_if(active_, [](const auto& text) { return text->ended; });
}

// Each text by itself, so that the one that fails ends alone.
void Scheduler::read_apart(std::vector<Part>& parts) {
  for (Part& part : parts) {
    const EngineRun run{&part.text->sequence, part.tokens};
    part.first_row = 0;
    std::span<const float> states;
    try {
      states = model_.read({&run, 1});
    } catch (const std::exception& error) {
      fail_text(*part.text, error.what());
      continue;
    }
    take_results({&part, 1}, states);
  }
}

void Scheduler::fail_text(Text& text, const std::string& message) {
  if (text.ended) return;
  ++counts_.failed;
  text.listener->on_error(message);
  end(text);
}

// Computes the logits that are needed, all at once, and hands them out.
void Scheduler::take_results(std::span<const Part> parts, std::span<const float> states) {
  const auto D = static_cast<size_t>(model_.width());
  const auto V = static_cast<size_t>(model_.vocabulary());
  // Rows of the prompt that are scored, or the last.
  const auto needed = [&](const Part& part) -> size_t {
    if (part.text->in_prompt() && part.text->request.prompt_logprobs) return part.tokens.size();
    return part.text->sequence.length() == static_cast<int64_t>(part.text->ids.size()) ? 1 : 0;
  };
  states_.clear();
  for (const Part& part : parts) {
    const size_t end_row = static_cast<size_t>(part.first_row) + part.tokens.size();
    const auto rows = states.subspan((end_row - needed(part)) * D, needed(part) * D);
    states_.insert(states_.end(), rows.begin(), rows.end());
  }
  logits_.resize(states_.size() / D * V);
  if (!states_.empty()) model_.logits(states_, logits_);
  size_t row = 0;
  for (const Part& part : parts) {
    const size_t count = needed(part);
    try {
      finish_part(part, std::span(states_).subspan(row * D, count * D),
                  std::span(logits_).subspan(row * V, count * V));
    } catch (const std::exception& error) {
      fail_text(*part.text, error.what());
    }
    row += count;
  }
}

void Scheduler::finish_part(const Part& part, std::span<const float> states,
                            std::span<const float> logits) {
  Text& text = *part.text;
  const auto D = static_cast<size_t>(model_.width());
  const auto V = static_cast<size_t>(model_.vocabulary());
  keep_pages(text);
  const auto read = static_cast<size_t>(text.sequence.length());
  const bool whole = read == text.ids.size();
  if (text.in_prompt()) {
    counts_.prompt_tokens += static_cast<int64_t>(part.tokens.size());
    // Row i says what token i + 1 was worth.
    if (text.request.prompt_logprobs) {
      if (text.prompt_scores.empty()) text.prompt_scores.push_back({.id = text.ids[0]});
      for (size_t i = 0; i < part.tokens.size(); ++i) {
        const size_t next = read - part.tokens.size() + i + 1;
        if (next == text.ids.size()) break;
        text.prompt_scores.push_back(score_token(text.ids[next], logits.subspan(i * V, V),
                                                 text.request.alternatives, options_.drawable));
      }
    }
    if (!whole) return;
    text.prompt_done = true;
    counts_.cached_tokens += text.cached_tokens;
    text.listener->on_prompt(text.prompt_scores, text.cached_tokens);
    text.prompt_scores = {};
    if (text.request.max_tokens == 0) {
      text.listener->on_end(TextEnd::length);
      end(text);
      return;
    }
  }
  write_token(text, states.last(D), logits.last(V));
}

// Draws the next token and hands it on.
void Scheduler::write_token(Text& text, std::span<const float> state,
                            std::span<const float> logits) {
  const TextRequest& request = text.request;
  const auto drawable = static_cast<size_t>(options_.drawable);
  const auto written = static_cast<int64_t>(text.ids.size() - request.prompt.size());
  // As generate() does: greedy by the 16-bit head, else by the logits.
  std::span<const float> drawn_from = logits.first(drawable);
  const bool biased = !request.logit_bias.empty() || text.penalties.any();
  if (biased) {
    biased_.assign(drawn_from.begin(), drawn_from.end());
    text.penalties.apply(biased_);
    for (const auto& [id, bias] : request.logit_bias) biased_[static_cast<size_t>(id)] += bias;
    drawn_from = biased_;
  }
  const bool greedy = request.sampling.temperature == 0 && !biased;
  const int32_t id = greedy ? model_.greedy(state, logits, options_.drawable)
                            : sample_token(drawn_from, request.sampling,
                                           text.random.uniform(static_cast<uint64_t>(written)));
  ScoredToken token{.id = id};
  if (request.logprobs) token = score_token(id, logits, request.alternatives, options_.drawable);
  ++counts_.written_tokens;
  const bool is_end = std::find(options_.end_tokens.begin(), options_.end_tokens.end(), id) !=
                      options_.end_tokens.end();
  const bool goes_on = text.listener->on_token(token, is_end);
  text.ids.push_back(id);
  text.penalties.written(id);
  if (is_end || !goes_on || written + 1 == request.max_tokens) {
    text.listener->on_end(is_end     ? TextEnd::end_token
                          : !goes_on ? TextEnd::stopped
                                     : TextEnd::length);
    end(text);
  }
}

ScoredToken score_token(int32_t id, std::span<const float> logits, int64_t alternatives,
                        int64_t drawable) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  const double log_sum = largest + std::log(sum);
  ScoredToken token{.id = id, .scored = true, .logprob = logits[static_cast<size_t>(id)] - log_sum};
  if (alternatives == 0) return token;
  std::vector<int32_t> ids(static_cast<size_t>(drawable));
  std::iota(ids.begin(), ids.end(), 0);
  const auto count = std::min<std::ptrdiff_t>(alternatives, drawable);
  std::partial_sort(ids.begin(), ids.begin() + count, ids.end(), [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    const int32_t other = ids[static_cast<size_t>(i)];
    token.alternatives.emplace_back(other, logits[static_cast<size_t>(other)] - log_sum);
  }
  return token;
}

}  // namespace osp
