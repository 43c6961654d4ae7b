#include "osp/report/json_fields.h"

#include <limits>

#include "osp/base/error.h"

namespace osp {
namespace {

const Json& typed_member(const Json& object, const char* key, Json::value_t type,
                         const char* type_name, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->type() != type) {
    fail(ErrorCode::damaged, "{}: \"{}\" is {}, expected {}; write the file again", where, key,
         found == object.end() ? "missing" : found->type_name(), type_name);
  }
  return *found;
}

}  // namespace

bool has_value(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && !found->is_null();
}

double number_or_nan(const Json& object, const char* key, const std::string& where,
                     Presence presence) {
  const auto found = object.find(key);
  const bool absent = found == object.end();
  if ((absent && presence == Presence::optional) || (!absent && found->is_null())) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return json_number(object, key, where);
}

int64_t int_or(const Json& object, const char* key, int64_t otherwise, const std::string& where) {
  return has_value(object, key) ? json_int(object, key, where) : otherwise;
}

std::string string_or_empty(const Json& object, const char* key, const std::string& where) {
  return has_value(object, key) ? json_string(object, key, where) : "";
}

std::vector<double> to_numbers(const Json& value, const std::string& name,
                               const std::string& where) {
  if (!value.is_array()) {
    fail(ErrorCode::damaged, "{}: \"{}\" holds {}, expected an array; write the file again", where,
         name, value.type_name());
  }
  std::vector<double> values;
  for (const Json& item : value) {
    if (!item.is_number() && !item.is_null()) {
      fail(ErrorCode::damaged, "{}: \"{}\" holds {}, expected numbers or null", where, name,
           item.type_name());
    }
    values.push_back(item.is_null() ? std::numeric_limits<double>::quiet_NaN()
                                    : item.get<double>());
  }
  return values;
}

std::vector<double> number_list(const Json& object, const char* key, const std::string& where) {
  return to_numbers(array_member(object, key, where), key, where);
}

const Json& object_member(const Json& object, const char* key, const std::string& where) {
  return typed_member(object, key, Json::value_t::object, "an object", where);
}

const Json& array_member(const Json& object, const char* key, const std::string& where) {
  return typed_member(object, key, Json::value_t::array, "an array", where);
}

const Json& objects_member(const Json& object, const char* key, const std::string& where) {
  const Json& items = array_member(object, key, where);
  for (const Json& item : items) {
    if (!item.is_object()) {
      fail(ErrorCode::damaged, "{}: \"{}\" holds {}, expected objects", where, key,
           item.type_name());
    }
  }
  return items;
}

const Json& objects_or_none(const Json& object, const char* key, const std::string& where) {
  static const Json none = Json::array();
  return has_value(object, key) ? objects_member(object, key, where) : none;
}

}  // namespace osp
