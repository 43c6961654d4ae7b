// Errors as clients of the OpenAI API read them.
//
// Tested by completion_request_test.cpp and tests/python/test_serve_http.py.
#pragma once

#include <stdexcept>
#include <string>

#include "osp/base/json.h"
#include "osp/http/http_message.h"

namespace osp {

// The answer to a client whose request cannot be carried out.
struct ApiError : std::runtime_error {
  ApiError(int http_status, const std::string& message, std::string parameter = "",
           std::string error_code = "")
      : std::runtime_error(message),
        status(http_status),
        param(std::move(parameter)),
        code(std::move(error_code)) {}
  int status;
  std::string param;  // name of the parameter at fault, "" for none
  std::string code;   // for programs: "context_length_exceeded"
};

// {"error": {message, type, param, code}}
Json error_json(const ApiError& error);
HttpResponse json_response(const Json& body, int status = 200);
HttpResponse error_response(const ApiError& error);
// The answer to a request that the HTTP server refuses.
HttpResponse refusal_response(int status);

}  // namespace osp
