// The answer to one request for completions: its texts as they come from the scheduler, as one JSON
// object at the end or as a stream of events.
//
// Tested by tests/python/test_serve.py.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "osp/http/http_server.h"
#include "osp/serve/completion_request.h"
#include "osp/serve/scheduler.h"

namespace osp {

class Answer : public std::enable_shared_from_this<Answer> {
 public:
  // The model must outlive the answer.
  Answer(CompletionRequest request, const ServedModel& model, std::shared_ptr<HttpReply> reply);
  ~Answer();

  // The texts to queue, each with a listener that keeps the answer alive.
  std::vector<std::pair<TextRequest, std::shared_ptr<TextListener>>> texts();

 private:
  class Choice;
  friend class Choice;

  void send_chunk(size_t index, Json choice);
  void send_event(const Json& event);
  void keep_alive();
  void choice_ended();
  void fail_all(const std::string& message);
  Json envelope(bool chunk) const;
  Json usage() const;

  const CompletionRequest request_;
  const ServedModel& model_;
  const std::shared_ptr<HttpReply> reply_;
  const std::string id_;
  const int64_t created_;
  std::vector<Json> finished_;  // choices of an answer in one piece
  size_t left_ = 0;             // choices that have not ended
  bool streaming_ = false, failed_ = false;
  std::chrono::steady_clock::time_point last_event_ = std::chrono::steady_clock::now();
  int64_t prompt_tokens_ = 0, cached_tokens_ = 0, written_tokens_ = 0;
};

}  // namespace osp
