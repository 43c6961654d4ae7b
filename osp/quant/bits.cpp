#include "osp/quant/bits.h"

#include <charconv>

#include "osp/base/error.h"

namespace osp {
namespace {

[[noreturn]] void fail_bits(std::string_view text) {
  fail(ErrorCode::usage,
       "bits \"{}\": expected weights-activations-cache such as 4-4-4 or nvfp4-nvfp4-16, each 2 to "
       "8, "
       "mxfp4, nvfp4 or fp8, or 16 for none",
       text);
}

NumberFormat parse_format(std::string_view part, std::string_view whole) {
  for (const NumberKind kind : {NumberKind::mxfp4, NumberKind::nvfp4, NumberKind::fp8}) {
    if (part == number_kind_name(kind)) return kind;
  }
  int64_t width = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), width);
  const bool complete = error == std::errc() && end == part.data() + part.size();
  if (!complete || (width != 16 && (width < 2 || width > 8))) fail_bits(whole);
  return width;
}

// Cuts off the part before `separator`; takes all if there is none.
std::string_view take_until(std::string_view& rest, char separator) {
  const size_t end = rest.find(separator);
  const std::string_view part = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view() : rest.substr(end + 1);
  return part;
}

}  // namespace

const char* number_kind_name(NumberKind kind) {
  switch (kind) {
    case NumberKind::integer:
      return "int";
    case NumberKind::mxfp4:
      return "mxfp4";
    case NumberKind::nvfp4:
      return "nvfp4";
    case NumberKind::fp8:
      return "fp8";
  }
  OSP_CHECK(false, "unknown kind of numbers {}", static_cast<int>(kind));
}

std::string NumberFormat::text() const {
  return is_integer() ? std::to_string(bits) : number_kind_name(kind);
}

std::string BitWidths::text() const {
  return fmt::format("{}-{}-{}", weights.text(), activations.text(), kv_cache.text());
}

BitWidths parse_bits(std::string_view text) {
  std::string_view rest = text;
  BitWidths bits;
  bits.weights = parse_format(take_until(rest, '-'), text);
  bits.activations = parse_format(take_until(rest, '-'), text);
  bits.kv_cache = parse_format(rest, text);
  return bits;
}

std::vector<BitWidths> parse_bits_list(std::string_view text) {
  std::vector<BitWidths> list;
  std::string_view rest = text;
  while (true) {
    const bool last = rest.find(',') == std::string_view::npos;
    list.push_back(parse_bits(take_until(rest, ',')));
    if (last) return list;
  }
}

}  // namespace osp
