#include "osp/cli/model_requests.h"

#include <algorithm>
#include <mutex>
#include <sstream>
#include <utility>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/cli/option_text.h"
#include "osp/ops/tensor_library.h"

namespace osp {
namespace {

Json parsed_object(const std::string& text, const std::string& where) {
  Json object = Json::parse(text, nullptr, false);
  if (!object.is_object()) fail(ErrorCode::usage, "{}: expected options as one JSON object", where);
  return object;
}

// Assigns keywords to fields as the command line assigns options: numbers may be given as text.
// Returns which were given.
CommonOptions assign_keywords(const FieldTable& table, const Json& keywords,
                              const std::string& where) {
  CommonOptions common;
  for (const FieldRef& field : table.fields()) common.known.push_back(field.name);
  for (const auto& [name, value] : keywords.items()) {
    const FieldRef& field = table.find(name, where);
    const bool text = value.is_string() && field.type() != FieldRef::Type::text &&
                      field.type() != FieldRef::Type::list;
    field.assign(text ? option_value(field, value.get<std::string>()) : value, where);
    common.given.push_back(name);
  }
  for (const FieldRef& field : table.fields()) {
    const bool given = common.is_given(field.name);
    if (field.traits.required && !given) {
      fail(ErrorCode::usage, "{}: {} is required", where, field.name);
    }
    if (given && !field.traits.needs.empty() && !common.is_given(field.traits.needs)) {
      fail(ErrorCode::usage, "{}: {} needs {}", where, field.name, field.traits.needs);
    }
  }
  return common;
}

std::string answers(const OpenedModel& model, const std::string& requests) {
  std::istringstream lines(requests);
  std::string text;
  answer_lines(lines, "request", model, [&](const std::string& line) { text += line + "\n"; });
  return text;
}

std::string logit_bytes(const OpenedModel& model, const std::string& request) {
  RequestBatch batch("request");
  batch.add(request, 1, model.scored());
  const at::Tensor logits = batch.single_logits(model.scored(), model.score_options());
  return {static_cast<const char*>(logits.const_data_ptr()), logits.nbytes()};
}

std::string generation(const OpenedModel& model, const std::string& request,
                       const ModelCall::Sink& sink) {
  PromptOptions prompt;
  GenerateOptions options;
  FieldTable table;
  table.add("", prompt);
  table.add("", options);
  const CommonOptions common =
      assign_keywords(table, parsed_object(request, "generate"), "generate");
  check_drawing(common, options);
  return json_text(model.generate(prompt, options, sink));
}

}  // namespace

ThreadedModel::~ThreadedModel() {
  // Without its thread (after a fork) nothing may be freed that the thread might be using.
  if (!thread_.is_of_this_process()) static_cast<void>(model_.release());
}

std::shared_ptr<ModelCall> ThreadedModel::open(const std::string& path,
                                               const std::string& options) {
  return thread_.start([this, path, options](const ModelCall::Sink&) {
    static std::once_flag environment;
    std::call_once(environment, prepare_tensor_library);
    OpenOptions open;
    FieldTable table;
    table.add("", open);
    const CommonOptions common = assign_keywords(table, parsed_object(options, path), path);
    model_ = std::make_unique<OpenedModel>(path, open, common);
    return std::string();
  });
}

std::shared_ptr<ModelCall> ThreadedModel::start(const std::string& kind,
                                                const std::string& request) {
  const OpenedModel& model = *model_;
  if (kind == "answer") {
    return thread_.start(
        [&model, request](const ModelCall::Sink&) { return answers(model, request); });
  }
  if (kind == "logits") {
    return thread_.start(
        [&model, request](const ModelCall::Sink&) { return logit_bytes(model, request); });
  }
  if (kind == "generate") {
    return thread_.start([&model, request](const ModelCall::Sink& sink) {
      return generation(model, request, sink);
    });
  }
  fail(ErrorCode::usage, "a call is one of answer, logits, generate, not {}", kind);
}

}  // namespace osp
