#include "osp/serve/service.h"

#include <openssl/crypto.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "osp/base/error.h"
#include "osp/base/printable.h"
#include "osp/base/sha256.h"
#include "osp/serve/answer.h"
#include "osp/serve/api_error.h"
#include "osp/serve/chat_page.h"

namespace osp {
namespace {

constexpr size_t kMostBodyBytes = 8 << 20;
constexpr int kMostJsonDepth = 64;
constexpr int kStepMs = 100;
constexpr std::string_view kModels = "/v1/models/";

sigset_t stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&set, signal);
  return set;
}

// Counts the stop signals that were sent.
class SignalCounter {
 public:
  SignalCounter() {
    const sigset_t set = stop_signals();
    descriptor_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (descriptor_ < 0) fail(ErrorCode::io, "no signal descriptor: {}", std::strerror(errno));
  }
  ~SignalCounter() { close(descriptor_); }
  SignalCounter(const SignalCounter&) = delete;
  SignalCounter& operator=(const SignalCounter&) = delete;

  int count() {
    signalfd_siginfo info{};
    while (read(descriptor_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) ++count_;
    return count_;
  }

 private:
  int descriptor_ = -1;
  int count_ = 0;
};

HttpResponse metrics_response(const Scheduler& scheduler) {
  const SchedulerCounts& c = scheduler.counts();
  std::string text;
  const auto add = [&](const char* name, const char* type, const char* help, int64_t value) {
    text += fmt::format("# HELP {0} {2}\n# TYPE {0} {1}\n{0} {3}\n", name, type, help, value);
  };
  add("osp_texts_total", "counter", "Texts that were begun.", c.texts);
  add("osp_texts_cancelled_total", "counter", "Texts whose client left.", c.cancelled);
  add("osp_texts_failed_total", "counter", "Texts that ended in an error.", c.failed);
  add("osp_prompt_tokens_total", "counter", "Prompt tokens that were read.", c.prompt_tokens);
  add("osp_cached_tokens_total", "counter", "Prompt tokens found in the prefix cache.",
      c.cached_tokens);
  add("osp_written_tokens_total", "counter", "Tokens that were written.", c.written_tokens);
  add("osp_steps_total", "counter", "Passes of the engine.", c.steps);
  add("osp_texts_active", "gauge", "Texts that are read or written now.", c.active);
  add("osp_texts_waiting", "gauge", "Texts that wait for their turn.", c.waiting);
  add("osp_cache_pages", "gauge", "Pages of keys and values in use.", c.pages);
  add("osp_cache_pages_limit", "gauge", "Pages that there may be.", scheduler.most_pages());
  return {.type = "text/plain; version=0.0.4; charset=utf-8",
          .body = std::make_shared<const std::string>(std::move(text))};
}

Json model_json(const ServedModel& model) {
  Json json;
  json["id"] = model.id;
  json["object"] = "model";
  json["created"] = 0;
  json["owned_by"] = "osp";
  json["max_model_len"] = model.context;
  return json;
}

class Service {
 public:
  Service(const ServedModel& model, Scheduler& scheduler, const ServiceOptions& options)
      : model_(model), scheduler_(scheduler), options_(options) {}

  void handle(HttpRequest&& request, const std::shared_ptr<HttpReply>& reply) const {
    try {
      answer(request, reply);
    } catch (const ApiError& error) {
      reply->send(error_response(error));
    } catch (const Error& error) {
      const bool ours = error.code() != ErrorCode::damaged && error.code() != ErrorCode::usage;
      reply->send(error_response(ApiError(ours ? 500 : 400, error.what())));
    } catch (const std::exception& error) {
      reply->send(error_response(ApiError(500, error.what())));
    }
  }

 private:
  void answer(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) const {
    const std::string path = request.path.substr(0, request.path.find('?'));
    const bool post = request.method == "POST";
    const auto wants = [&](bool a_post) {
      if (a_post == post) return;
      throw ApiError(405, fmt::format("{} is for {} requests", path, a_post ? "POST" : "GET"));
    };
    if (path == "/health") {
      wants(false);
      return reply->send(json_response(Json{{"status", "ok"}}));
    }
    // The page has no secrets; its requests need the key as all do.
    if (path == "/") {
      wants(false);
      return reply->send(chat_page_response());
    }
    if (!options_.keys.empty() && !is_authorized(request.authorization, options_.keys)) {
      throw ApiError(401, "this server wants an API key, as Authorization: Bearer KEY", "",
                     "invalid_api_key");
    }
    if (path == "/v1/completions" || path == "/v1/chat/completions") {
      wants(true);
      return complete(request.body, path == "/v1/chat/completions", reply);
    }
    wants(false);
    if (path == "/metrics") return reply->send(metrics_response(scheduler_));
    if (path == "/v1/models") {
      return reply->send(
          json_response(Json{{"object", "list"}, {"data", Json::array({model_json(model_)})}}));
    }
    if (path.starts_with(kModels)) {
      const std::string id = percent_decoded(path.substr(kModels.size()));
      if (id == model_.id) return reply->send(json_response(model_json(model_)));
      throw ApiError(404,
                     fmt::format("the model {} does not exist here; this server has {}",
                                 printable(id, 80), model_.id),
                     "model", "model_not_found");
    }
    throw ApiError(404, fmt::format("{} is not there; this server has /, /v1/completions, "
                                    "/v1/chat/completions, /v1/models, /health and /metrics",
                                    printable(path, 80)));
  }

  void complete(const std::string& body, bool chat, const std::shared_ptr<HttpReply>& reply) const {
    const Json json = parse_json(body, "the body", kMostJsonDepth);
    CompletionRequest request = chat ? parse_chat(json, model_) : parse_completion(json, model_);
    const auto answer = std::make_shared<Answer>(std::move(request), model_, reply);
    if (scheduler_.add(answer->texts())) return;
    throw ApiError(429, "too many texts are waiting; try again later", "", "overloaded");
  }

  const ServedModel& model_;
  Scheduler& scheduler_;
  const ServiceOptions& options_;
};

}  // namespace

bool is_authorized(const std::string& authorization, const std::vector<std::string>& keys) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() < kScheme.size() ||
      strncasecmp(authorization.data(), kScheme.data(), kScheme.size()) != 0) {
    return false;
  }
  const std::string sent = sha256_hex(std::string_view(authorization).substr(kScheme.size()));
  bool found = false;
  for (const std::string& key : keys) {
    const std::string known = sha256_hex(key);
    found |= CRYPTO_memcmp(sent.data(), known.data(), known.size()) == 0;
  }
  return found;
}

void block_stop_signals() {
  const sigset_t set = stop_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

void run_service(const ServedModel& model, TextModel& texts,
                 const SchedulerOptions& scheduler_options, const ServiceOptions& options) {
  SignalCounter signals;
  HttpServer server({.port = options.port,
                     .hosts = options.hosts,
                     .most_body_bytes = kMostBodyBytes,
                     .refusal = refusal_response});
  Scheduler scheduler(texts, scheduler_options);
  const Service service(model, scheduler, options);
  if (options.serving) options.serving(server.url());
  const auto step = [&] {
    server.step(kStepMs, [&](HttpRequest&& request, const std::shared_ptr<HttpReply>& reply) {
      service.handle(std::move(request), reply);
    });
  };
  while (signals.count() == 0) step();
  // Finish what was begun.
  server.close();
  while (!server.idle()) {
    if (signals.count() > 1) fail(ErrorCode::interrupted, "stopped by a second signal");
    step();
  }
}

}  // namespace osp
