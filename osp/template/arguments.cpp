#include "osp/template/arguments.h"

#include <algorithm>

namespace osp::jinja {

Bound::Bound(Context& context, std::string_view callee, const Arguments& arguments,
             std::initializer_list<std::string_view> parameters, size_t required)
    : context_(context),
      callee_(callee),
      values_(parameters.size()),
      given_(parameters.size(), false) {
  if (arguments.positional.size() > parameters.size()) {
    context.refuse("{} takes at most {} arguments, found {}", callee_, parameters.size(),
                   arguments.positional.size());
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) {
    values_[i] = arguments.positional[i];
    given_[i] = true;
  }
  for (const auto& [name, value] : arguments.named) {
    const auto* const found = std::find(parameters.begin(), parameters.end(), name);
    if (found == parameters.end()) context.refuse("{} has no argument {}", callee_, name);
    const auto index = static_cast<size_t>(found - parameters.begin());
    if (given_[index]) context.refuse("{} is given {} twice", callee_, name);
    values_[index] = value;
    given_[index] = true;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!given_[i]) context.refuse("{} lacks its argument {}", callee_, parameters.begin()[i]);
  }
}

int64_t Bound::integer(size_t index, int64_t otherwise) const {
  if (!given_[index]) return otherwise;
  context_.need_defined(values_[index]);
  if (!values_[index].is_integral()) {
    context_.refuse("{} takes an integer, found {}", callee_, type_name(values_[index]));
  }
  return values_[index].as_integer();
}

const std::string& Bound::text(size_t index) const {
  context_.need_defined(values_[index]);
  if (!values_[index].is(Kind::text)) {
    context_.refuse("{} takes a text, found {}", callee_, type_name(values_[index]));
  }
  return values_[index].as_text();
}

}  // namespace osp::jinja
