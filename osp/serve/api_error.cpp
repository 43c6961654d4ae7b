#include "osp/serve/api_error.h"

#include "osp/base/error.h"
#include "osp/base/json_text.h"

namespace osp {
namespace {

const char* type_of(int status) {
  if (status == 401) return "authentication_error";
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

const char* sentence_of(int status) {
  switch (status) {
    case 403:
      return "this server answers to 127.0.0.1 and localhost with its own port; name others with "
             "--allow-host";
    case 405:
      return "this server knows GET, HEAD and POST";
    case 411:
      return "a request with a body needs one Content-Length and no Transfer-Encoding";
    case 413:
      return "the body is larger than the limit of 8 MB";
    case 417:
      return "the only expectation that this server knows is 100-continue";
    case 431:
      return "the head is longer than the limit of 8 KB";
    default:
      return "not a well-formed HTTP/1.1 request";
  }
}

Json text_or_null(const std::string& text) { return text.empty() ? Json() : Json(text); }

}  // namespace

Json error_json(const ApiError& error) {
  Json json;
  json["message"] = error.what();
  json["type"] = type_of(error.status);
  json["param"] = text_or_null(error.param);
  json["code"] = text_or_null(error.code);
  return Json{{"error", std::move(json)}};
}

HttpResponse json_response(const Json& body, int status) {
  return {.status = status,
          .type = "application/json",
          .body = std::make_shared<const std::string>(json_text(body))};
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response = json_response(error_json(error), error.status);
  if (error.status == 401) response.fields = "WWW-Authenticate: Bearer\r\n";
  if (error.status == 429 || error.status == 503) response.fields = "Retry-After: 5\r\n";
  if (error.status == 405) response.fields = "Allow: GET, HEAD, POST\r\n";
  return response;
}

HttpResponse refusal_response(int status) {
  return error_response(ApiError(status, sentence_of(status)));
}

}  // namespace osp
