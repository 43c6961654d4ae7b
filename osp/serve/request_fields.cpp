#include "osp/serve/request_fields.h"

#include <algorithm>

#include "osp/base/error.h"
#include "osp/base/json_text.h"
#include "osp/base/printable.h"
#include "osp/serve/api_error.h"

namespace osp {
namespace {

constexpr size_t kShownBytes = 80;

[[noreturn]] void refuse_value(const std::string& name, const Json& value,
                               const std::string& expected) {
  throw ApiError(400,
                 fmt::format("{} is {}, expected {}", name,
                             printable(json_text(value), kShownBytes), expected),
                 name);
}

}  // namespace

RequestFields::RequestFields(const Json& object) : object_(object) {
  if (!object.is_object()) throw ApiError(400, "the body is not a JSON object");
}

const Json* RequestFields::value(const std::string& name) {
  taken_.insert(name);
  const auto found = object_.find(name);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool RequestFields::flag(const std::string& name, bool otherwise) {
  const Json* found = value(name);
  if (found == nullptr) return otherwise;
  if (!found->is_boolean()) refuse_value(name, *found, "true or false");
  return found->get<bool>();
}

std::optional<int64_t> RequestFields::integer(const std::string& name, int64_t low, int64_t high) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  const bool fits = found->is_number_integer() &&
                    !(found->is_number_unsigned() && found->get<uint64_t>() > INT64_MAX) &&
                    found->get<int64_t>() >= low && found->get<int64_t>() <= high;
  if (!fits) refuse_value(name, *found, fmt::format("an integer from {} to {}", low, high));
  return found->get<int64_t>();
}

std::optional<double> RequestFields::number(const std::string& name, double low, double high) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  const bool fits =
      found->is_number() && found->get<double>() >= low && found->get<double>() <= high;
  if (!fits) refuse_value(name, *found, fmt::format("a number from {} to {}", low, high));
  return found->get<double>();
}

std::optional<std::string> RequestFields::text(const std::string& name) {
  const Json* found = value(name);
  if (found == nullptr) return std::nullopt;
  if (!found->is_string()) refuse_value(name, *found, "a text");
  return found->get<std::string>();
}

void RequestFields::ignore(const std::vector<std::string>& names) {
  taken_.insert(names.begin(), names.end());
}

void RequestFields::refuse(const std::string& name, const std::vector<Json>& harmless) {
  const Json* found = value(name);
  if (found == nullptr || (found->is_structured() && found->empty())) return;
  if (std::find(harmless.begin(), harmless.end(), *found) != harmless.end()) return;
  throw ApiError(400, fmt::format("{} is not supported by this server; leave it out", name), name,
                 "unsupported_parameter");
}

void RequestFields::finish() const {
  for (const auto& [name, value] : object_.items()) {
    if (taken_.contains(name) || value.is_null()) continue;
    throw ApiError(400,
                   fmt::format("unknown parameter {}; leave it out", printable(name, kShownBytes)),
                   name, "unknown_parameter");
  }
}

}  // namespace osp
