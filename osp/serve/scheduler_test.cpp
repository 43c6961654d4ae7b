// Texts side by side and from several threads: each is what it is alone, ends as it should, and
// leaves nothing behind.
#include "osp/serve/scheduler.h"

#include <gtest/gtest.h>

#include <future>
#include <numeric>

#include "osp/serve/test_text_model.h"

namespace osp {
namespace {

// What a listener hears, for any thread to wait for.
class Heard : public TextListener {
 public:
  // With `pauses` the scheduler stops at each token until go_on().
  explicit Heard(size_t most = SIZE_MAX, bool pauses = false) : most_(most), pauses_(pauses) {}

  bool wanted() override { return wanted_; }
  void on_prompt(std::span<const ScoredToken> tokens, int64_t cached_tokens) override {
    prompt_.assign(tokens.begin(), tokens.end());
    cached_tokens_ = cached_tokens;
  }
  bool on_token(const ScoredToken& token, bool) override {
    ids_.push_back(token.id);
    begun_.happen();
    if (pauses_) going_on_.wait();
    return ids_.size() < most_;
  }
  void on_end(TextEnd end) override {
    end_ = end;
    ended_.happen();
  }
  void on_error(const std::string& message) override {
    error_ = message;
    ended_.happen();
  }

  void leave() { wanted_ = false; }
  void wait_for_token() { begun_.wait(); }
  void go_on() { going_on_.happen(); }
  // After the end.
  const std::vector<int32_t>& ids() {
    ended_.wait();
    return ids_;
  }
  const std::string& error() {
    ended_.wait();
    return error_;
  }
  TextEnd end() { return ids(), end_; }
  int64_t cached_tokens() { return ids(), cached_tokens_; }
  const std::vector<ScoredToken>& prompt() { return ids(), prompt_; }

 private:
  // An event that happens once.
  class Event {
   public:
    void happen() {
      if (!happened_.exchange(true)) promise_.set_value();
    }
    void wait() { future_.wait(); }

   private:
    std::atomic<bool> happened_ = false;
    std::promise<void> promise_;
    std::shared_future<void> future_ = promise_.get_future().share();
  };

  const size_t most_;
  const bool pauses_;
  std::atomic<bool> wanted_ = true;
  Event begun_, going_on_, ended_;
  std::vector<int32_t> ids_;
  std::vector<ScoredToken> prompt_;
  int64_t cached_tokens_ = 0;
  TextEnd end_ = TextEnd::length;
  std::string error_;
};

std::vector<int32_t> prompt_of(int32_t seed, size_t count) {
  std::vector<int32_t> ids(count);
  for (size_t i = 0; i < count; ++i) {
    ids[i] = static_cast<int32_t>((static_cast<size_t>(seed) * 7 + i * i) % 12);
  }
  return ids;
}

constexpr int64_t kDrawable = TestTextModel::kBroken;  // texts never break the model by themselves

class Scheduled : public testing::Test {
 protected:
  std::unique_ptr<Scheduler> scheduler(int64_t pages = 64, int64_t waiting = 4096) {
    return std::make_unique<Scheduler>(
        model_,
        SchedulerOptions{.most_waiting = waiting, .most_pages = pages, .drawable = kDrawable});
  }
  static std::shared_ptr<Heard> ask(Scheduler& scheduler, TextRequest request,
                                    size_t most = SIZE_MAX, bool pauses = false) {
    auto heard = std::make_shared<Heard>(most, pauses);
    std::vector<std::pair<TextRequest, std::shared_ptr<TextListener>>> texts;
    texts.emplace_back(std::move(request), heard);
    return scheduler.add(std::move(texts)) ? heard : nullptr;
  }
  // Some texts of each kind: short, longer than a page, drawn by chance.
  static TextRequest request(int i) {
    return {.prompt = prompt_of(i % 5, 3 + static_cast<size_t>(i % 7) * 40),
            .max_tokens = 5 + i % 20,
            .sampling = {.temperature = i % 2 == 0 ? 0.0 : 0.8},
            .seed = static_cast<uint64_t>(i)};
  }

  TestTextModel model_;
};

TEST_F(Scheduled, TextsOfManyThreadsAreWhatEachIsAlone) {
  constexpr int kThreads = 4, kTexts = 25;
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < kThreads * kTexts; ++i) {
    alone.push_back(ask(*scheduler(), request(i))->ids());
    EXPECT_EQ(alone.back().size(), static_cast<size_t>(5 + i % 20));
  }
  const auto together = scheduler();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::vector<std::shared_ptr<Heard>> heard;
      for (int i = t; i < kThreads * kTexts; i += kThreads) {
        heard.push_back(ask(*together, request(i)));
        EXPECT_GE(together->counts().waiting, 0);
      }
      for (size_t i = 0; i < heard.size(); ++i) {
        EXPECT_EQ(heard[i]->ids(), alone[static_cast<size_t>(t) + i * kThreads]) << i;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(together->counts().texts, kThreads * kTexts);
  EXPECT_GT(together->counts().cached_tokens, 0);  // 5 beginnings, some longer than a page
}

TEST_F(Scheduled, ABrokenTextEndsAloneAndWithAReason) {
  const std::vector<int32_t> alone = ask(*scheduler(), request(1))->ids();
  const auto together = scheduler();
  std::vector<std::shared_ptr<Heard>> good, broken;
  for (int i = 0; i < 8; ++i) {
    good.push_back(ask(*together, request(1)));
    broken.push_back(ask(*together, {.prompt = {1, TestTextModel::kBroken}, .max_tokens = 3}));
  }
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(good[static_cast<size_t>(i)]->ids(), alone);
    EXPECT_NE(broken[static_cast<size_t>(i)]->error().find("breaks this model"), std::string::npos);
  }
  EXPECT_EQ(together->counts().failed, 8);
}

TEST_F(Scheduled, WhoLeavesMakesRoomForWhoWaits) {
  // The model serves one scheduler at a time.
  const std::vector<int32_t> alone = ask(*scheduler(), request(2))->ids();
  // Pages for one text at a time.
  const auto narrow = scheduler(2);
  const TextRequest longest{.prompt = {1, 2}, .max_tokens = 255};
  const auto first = ask(*narrow, longest, SIZE_MAX, true), second = ask(*narrow, longest);
  const auto third = ask(*narrow, request(2));
  first->wait_for_token();
  second->leave();  // still waiting
  first->leave();
  first->go_on();
  EXPECT_EQ(third->ids(), alone);
  EXPECT_EQ(narrow->counts().cancelled, 2);
}

TEST_F(Scheduled, AFullQueueTakesAllOrNothing) {
  const auto narrow = scheduler(2, 3);
  const TextRequest longest{.prompt = {1, 2}, .max_tokens = 255};
  const auto first = ask(*narrow, longest, SIZE_MAX, true);
  first->wait_for_token();  // it is no longer in the queue
  std::vector<std::pair<TextRequest, std::shared_ptr<TextListener>>> four, three;
  for (int i = 0; i < 4; ++i) four.emplace_back(longest, std::make_shared<Heard>());
  three.assign(four.begin() + 1, four.end());
  EXPECT_FALSE(narrow->add(four));
  EXPECT_EQ(narrow->counts().waiting, 0);
  EXPECT_TRUE(narrow->add(three));
  EXPECT_EQ(ask(*narrow, longest), nullptr);
  first->go_on();
  // The scheduler ends with texts in progress and in the queue, which nobody hears of.
}

TEST_F(Scheduled, AListenerEndsItsText) {
  const auto one = scheduler();
  const auto heard = ask(*one, {.prompt = {1, 2, 3}, .max_tokens = 50}, 4);
  EXPECT_EQ(heard->ids().size(), 4u);
  EXPECT_EQ(heard->end(), TextEnd::stopped);
}

TEST_F(Scheduled, AKeptBeginningChangesNothingAndIsCounted) {
  const auto one = scheduler();
  TextRequest again{.prompt = prompt_of(3, 300), .max_tokens = 9};
  const auto first = ask(*one, again);
  EXPECT_EQ(first->cached_tokens(), 0);
  const auto second = ask(*one, again);
  EXPECT_EQ(second->ids(), first->ids());
  EXPECT_EQ(second->cached_tokens(), 256);
  // Log-probabilities of the prompt need its states: it is read anew.
  again.prompt_logprobs = again.logprobs = true;
  const auto scored = ask(*one, again);
  EXPECT_EQ(scored->ids(), first->ids());
  EXPECT_EQ(scored->prompt().size(), 300u);
  EXPECT_FALSE(scored->prompt()[0].scored);
  EXPECT_TRUE(scored->prompt()[299].scored);
}

TEST_F(Scheduled, OldBeginningsGoWhenPagesAreNeeded) {
  const auto narrow = scheduler(4);
  for (int i = 0; i < 12; ++i) {
    EXPECT_EQ(ask(*narrow, {.prompt = prompt_of(i, 260 + i), .max_tokens = 3})->ids().size(), 3u);
    EXPECT_LE(model_.pages_in_use(), 4);
  }
}

}  // namespace
}  // namespace osp
