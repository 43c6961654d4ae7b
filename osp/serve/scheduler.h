// The model's thread: it continues many texts at once.
//
// A step is one pass of the model over at most 64 rows: the newest token of every text that is
// being written, and, in the rows that are left, parts of prompts. A text begins when the pages
// that it may need at its longest are free, so that it never has to stop for another. What a text
// becomes does not depend on the texts beside it, bit for bit (engine.h).
//
// Tested by scheduler_test.cpp and tests/python/test_serve.py.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "osp/model/sampling.h"
#include "osp/model/token_penalties.h"
#include "osp/serve/prefix_cache.h"
#include "osp/serve/text_model.h"

namespace osp {

struct TextRequest {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_tokens = 0;
  SamplingOptions sampling = {};
  PenaltyOptions penalties = {};
  uint64_t seed = 0;    // of the Philox stream "generate" that `osp generate` uses, …
  uint64_t stream = 0;  // … at this step of it
  std::vector<std::pair<int32_t, float>> logit_bias = {};
  bool logprobs = false;         // log-probabilities of what is written,
  bool prompt_logprobs = false;  // and of the prompt's tokens,
  int64_t alternatives = 0;      // each with as many of the most likely tokens
};

// A token with its log-probability at temperature 1 before any bias, where it was asked for.
struct ScoredToken {
  int32_t id = 0;
  bool scored = false;
  double logprob = 0;
  std::vector<std::pair<int32_t, double>> alternatives = {};  // most likely first
};

enum class TextEnd { end_token, length, stopped };

// Who asked for a text; called on the scheduler's thread.
class TextListener {
 public:
  virtual ~TextListener() = default;
  // True while anybody waits for the text; asked before every step.
  virtual bool wanted() = 0;
  // The prompt is read; `tokens` is empty unless its log-probabilities were asked for.
  virtual void on_prompt(std::span<const ScoredToken> tokens, int64_t cached_tokens) = 0;
  // One more token. False ends the text.
  virtual bool on_token(const ScoredToken& token, bool is_end) = 0;
  virtual void on_end(TextEnd end) = 0;
  // The text ends here because the model failed.
  virtual void on_error(const std::string& message) = 0;
};

struct SchedulerOptions {
  int64_t most_texts = 32;  // that are read or written at a time
  int64_t most_waiting = 4096;
  int64_t most_pages = 0;  // of the cache of keys and values
  int64_t drawable = 0;    // ids below this may be written
  std::vector<int32_t> end_tokens = {};
};

// Counts since the start, and what is going on.
struct SchedulerCounts {
  std::atomic<int64_t> texts{0}, prompt_tokens{0}, cached_tokens{0}, written_tokens{0}, steps{0},
      failed{0}, cancelled{0}, active{0}, waiting{0}, pages{0};
};

class Scheduler {
 public:
  Scheduler(TextModel& model, SchedulerOptions options);
  // Ends at once: texts in progress are forgotten.
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // Queues texts, all or, if the queue is full, none (false). Any thread.
  bool add(std::vector<std::pair<TextRequest, std::shared_ptr<TextListener>>> texts);
  const SchedulerCounts& counts() const { return counts_; }
  int64_t most_pages() const { return options_.most_pages; }

 private:
  struct Text;
  // Rows of a text in a step whose logits are needed.
  struct Part {
    Text* text;
    std::span<const int32_t> tokens;
    int64_t first_row = 0;
  };

  void run();
  bool wait_for_work();
  void drop_unwanted();
  void admit();
  std::vector<Part> plan();
  void step();
  void read_apart(std::vector<Part>& parts);
  void take_results(std::span<const Part> parts, std::span<const float> states);
  void finish_part(const Part& part, std::span<const float> states, std::span<const float> logits);
  void write_token(Text& text, std::span<const float> state, std::span<const float> logits);
  void keep_pages(Text& text);
  void adopt_pages(Text& text);
  void end(Text& text);
  void fail_text(Text& text, const std::string& message);

  TextModel& model_;
  const SchedulerOptions options_;
  PrefixCache cache_;
  SchedulerCounts counts_;
  std::vector<std::unique_ptr<Text>> active_;
  int64_t promised_pages_ = 0;  // to active texts

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::unique_ptr<Text>> waiting_;
  std::atomic<bool> leaving_ = false;

  std::vector<float> states_, logits_, biased_;
  std::thread thread_;  // last: it uses all of the above
};

// log p of each id of `logits`, computed in double: logit − log Σ exp.
ScoredToken score_token(int32_t id, std::span<const float> logits, int64_t alternatives,
                        int64_t drawable);

}  // namespace osp
