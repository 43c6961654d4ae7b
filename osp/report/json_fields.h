// Typed access to the results that the report reads. Numbers may be null (not finite, or not
// measured); keys may be absent where the function says so. Anything else is Error(damaged) with
// the file, the key, the type found and the type expected. Tested by run_data_test.cpp.
#pragma once

#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

enum class Presence { required, optional };

// A number or null; NaN if null or, where it is optional, absent.
double number_or_nan(const Json& object, const char* key, const std::string& where,
                     Presence presence = Presence::optional);
int64_t int_or(const Json& object, const char* key, int64_t otherwise, const std::string& where);
std::string string_or_empty(const Json& object, const char* key, const std::string& where);

// Numbers or nulls.
std::vector<double> number_list(const Json& object, const char* key, const std::string& where);
// The numbers of a value that is not a member; messages call it `name`.
std::vector<double> to_numbers(const Json& value, const std::string& name,
                               const std::string& where);

// A member of the type in the function's name.
const Json& object_member(const Json& object, const char* key, const std::string& where);
const Json& array_member(const Json& object, const char* key, const std::string& where);
// An array whose items are all objects.
const Json& objects_member(const Json& object, const char* key, const std::string& where);
// An array of objects; an empty one where the key is absent or null.
const Json& objects_or_none(const Json& object, const char* key, const std::string& where);

// True if the key is present and not null.
bool has_value(const Json& object, const char* key);

}  // namespace osp
