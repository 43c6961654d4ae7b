#include "osp/report/live_page.h"

#include <chrono>
#include <filesystem>

#include "osp/base/error.h"
#include "osp/base/interrupt.h"
#include "osp/base/sha256.h"
#include "osp/http/http_server.h"
#include "osp/report/inputs.h"

namespace osp {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kCheckEvery{1000};  // for changed files
constexpr int kStepMs = 200;

// Sizes and modification times of all input files.
std::string state_of(const std::vector<std::string>& inputs) {
  std::string state;
  const auto add = [&](const std::filesystem::path& path) {
    std::error_code error;
    const auto size = std::filesystem::file_size(path, error);
    if (error) return;
    const auto time = std::filesystem::last_write_time(path, error).time_since_epoch().count();
    state += fmt::format("{} {} {}\n", path.string(), size, time);
  };
  for (const std::string& input : inputs) {
    add(input);
    for (const char* name :
         {"metrics.jsonl", "recipe.json", "eval.json", "analysis.json", "quantize.json"}) {
      add(std::filesystem::path(input) / name);
    }
  }
  return state;
}

// The page as it is served at the moment.
struct Served {
  std::string version;
  std::shared_ptr<const std::string> page;
  std::shared_ptr<const std::string> update;  // the page without its library
};

Served make_page(const LivePageOptions& options, const std::string& plotly,
                 const std::string& state) {
  const ReportInputs inputs = read_inputs(options.inputs, options.labels, true);
  PageOptions page = options.page;
  page.live_version = sha256_hex(state).substr(0, 16);
  return {page.live_version, std::make_shared<const std::string>(render_page(inputs, page, plotly)),
          std::make_shared<const std::string>(render_page(inputs, page, ""))};
}

HttpResponse answer(const Served& served, const std::string& path) {
  const std::string html = "text/html; charset=utf-8";
  if (path == "/") return {.type = html, .body = served.page};
  if (path == "/update") return {.type = html, .body = served.update};
  if (path == "/version") return {.body = std::make_shared<const std::string>(served.version)};
  return {.status = 404, .body = std::make_shared<const std::string>("404 Not Found\n")};
}

}  // namespace

void serve_live_page(const LivePageOptions& options, const std::string& plotly) {
  // The first page, then the server.
  std::string state = state_of(options.inputs);
  Served served = make_page(options, plotly, state);
  catch_signals();
  HttpServer server({.port = options.port});
  if (options.serving) options.serving(server.url());
  // Answer requests; make the page anew when an input has changed.
  Clock::time_point last_check = Clock::now();
  while (!stop_requested()) {
    server.step(kStepMs, [&](const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
      reply->send(answer(served, request.path));
    });
    if (Clock::now() - last_check < kCheckEvery) continue;
    const std::string now = state_of(options.inputs);
    if (now != state) {
      state = now;
      try {
        served = make_page(options, plotly, state);
      } catch (const Error& error) {
        if (options.unreadable) options.unreadable(error.what());
      }
    }
    last_check = Clock::now();
  }
}

}  // namespace osp
