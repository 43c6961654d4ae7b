// Typed access to the results that the report reads: numbers may be null (not finite, or not
// measured), keys may be absent where that is said. Everything else is Error(damaged) that names
// file, key, what was found and what was expected.
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
// The same for a value that is not a member; `name` is what messages call it.
std::vector<double> to_numbers(const Json& value, const std::string& name,
                               const std::string& where);

// A member of that type.
const Json& object_member(const Json& object, const char* key, const std::string& where);
const Json& array_member(const Json& object, const char* key, const std::string& where);
// An array whose items are all objects.
const Json& objects_member(const Json& object, const char* key, const std::string& where);
// The same or, where the key is absent or null, an empty array.
const Json& objects_or_none(const Json& object, const char* key, const std::string& where);

// Whether the key is there and not null.
bool has(const Json& object, const char* key);

}  // namespace osp
