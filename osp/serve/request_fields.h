// The parameters of a request, taken one by one; what nobody has taken is refused by name.
//
// Tested by completion_request_test.cpp.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "osp/base/json.h"

namespace osp {

// A parameter that is null counts as absent. ApiError(400) naming the parameter for a value of
// another type or beyond its range.
class RequestFields {
 public:
  // `object` must outlive this.
  explicit RequestFields(const Json& object);

  // The value as it is, or null.
  const Json* value(const std::string& name);
  bool flag(const std::string& name, bool otherwise);
  std::optional<int64_t> integer(const std::string& name, int64_t low, int64_t high);
  std::optional<double> number(const std::string& name, double low, double high);
  std::optional<std::string> text(const std::string& name);
  // Parameters without effect here.
  void ignore(const std::vector<std::string>& names);
  // A parameter that cannot be honoured unless it has this value, or is an empty list.
  void refuse(const std::string& name, const std::vector<Json>& harmless);
  // Refuses what was not taken.
  void finish() const;

 private:
  const Json& object_;
  std::set<std::string> taken_;
};

}  // namespace osp
