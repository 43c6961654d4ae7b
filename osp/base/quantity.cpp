#include "osp/base/quantity.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <string_view>

#include "osp/base/error.h"

namespace osp {
namespace {

// Removes `prefix` from the front of `text`, if it is there.
bool take(std::string_view& text, std::string_view prefix) {
  if (!text.starts_with(prefix)) return false;
  text.remove_prefix(prefix.size());
  return true;
}

// Takes the prefix of a unit and returns its factor.
double take_scale(std::string_view& text) {
  constexpr std::string_view kLetters = "kMGTP";
  const size_t place = text.empty() ? kLetters.npos : kLetters.find(text[0] == 'K' ? 'k' : text[0]);
  if (place == kLetters.npos) return 1;
  text.remove_prefix(1);
  return std::pow(take(text, "i") ? 1024.0 : 1000.0, static_cast<double>(place + 1));
}

}  // namespace

double parse_quantity(const std::string& text, const std::string& unit, const std::string& option) {
  std::string_view rest = text;
  double number = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  while (take(rest, " ")) {
  }
  number *= take_scale(rest);
  const std::string bits = "bit" + (unit.starts_with("B") ? unit.substr(1) : "");
  if (unit.starts_with("B") && rest == bits) {
    number /= 8;
    rest = {};
  }
  if (rest == unit) rest = {};
  if (error != std::errc() || !rest.empty() || !std::isfinite(number) || number <= 0) {
    fail(ErrorCode::usage, "{}: '{}' is no amount of {}; write it like 32G{}", option, text, unit,
         unit);
  }
  return number;
}

}  // namespace osp
