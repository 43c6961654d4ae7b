#include "osp/template/text_format.h"

#include <algorithm>

#include "osp/template/print.h"

namespace osp::jinja {
namespace {

// The arguments by the names of fields.
class FormatFields {
 public:
  FormatFields(Context& context, const Arguments& arguments)
      : context_(context), arguments_(arguments) {}

  const Value& find(const std::string& field) {
    if (field.find_first_of(".[!:{") != std::string::npos) {
      context_.unsupported("the field {{{}}} of format", field);
    }
    const bool number = !field.empty() && std::all_of(field.begin(), field.end(),
                                                      [](char c) { return c >= '0' && c <= '9'; });
    if (!field.empty() && !number) return named(field);
    // Either all positions are counted or all are given.
    (number ? given_ : counted_) = true;
    if (given_ && counted_) context_.refuse("format has fields with and without positions");
    if (field.size() > 6) context_.refuse("format has no argument {}", field);
    return at(number ? std::stoul(field) : next_++);
  }

 private:
  const Value& at(size_t position) const {
    if (position < arguments_.positional.size()) return arguments_.positional[position];
    context_.refuse("format has no argument {}", position);
  }
  const Value& named(const std::string& name) const {
    for (const auto& [key, value] : arguments_.named) {
      if (key == name) return value;
    }
    context_.refuse("format has no argument {}", name);
  }

  Context& context_;
  const Arguments& arguments_;
  size_t next_ = 0;
  bool given_ = false, counted_ = false;
};

}  // namespace

std::string format_text(Context& context, const std::string& format, const Arguments& arguments) {
  context.charge_text(format.size());
  FormatFields fields(context, arguments);
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    const char c = format[i];
    if (c != '{' && c != '}') {
      out += c;
    } else if (i + 1 < format.size() && format[i + 1] == c) {
      out += c;
      ++i;
    } else {
      const size_t end = format.find('}', i);
      if (c == '}' || end == std::string::npos) context.refuse("format has a single {}", c);
      out += to_text(context, fields.find(format.substr(i + 1, end - i - 1)));
      context.charge_text(out.size() > kMaxTextBytes ? out.size() : 0);
      i = end;
    }
  }
  return out;
}

}  // namespace osp::jinja
