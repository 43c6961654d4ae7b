#include "osp/template/expression_parser.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>

#include "osp/base/printable.h"
#include "osp/template/checks.h"
#include "osp/template/filters.h"

namespace osp::jinja {
namespace {

std::string shown(const Token& token) {
  switch (token.kind) {
    case Token::Kind::variable_end:
      return "}}";
    case Token::Kind::block_end:
      return "%}";
    case Token::Kind::end:
      return "the end of the template";
    case Token::Kind::string:
      return "a string";
    default:
      return printable(token.text);
  }
}

template <class... Parts>
std::vector<ExpressionPointer> together(Parts... parts) {
  std::vector<ExpressionPointer> all;
  (all.push_back(std::move(parts)), ...);
  return all;
}

}  // namespace

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
  if (++parser.level_ > kMaxSyntaxDepth) {
    fail_unsupported(parser.line(), "the template is nested too deeply");
  }
}

bool ExpressionParser::is_symbol(std::string_view symbol) const {
  return current().kind == Token::Kind::symbol && current().text == symbol;
}

bool ExpressionParser::is_name(std::string_view name) const {
  return current().kind == Token::Kind::name && current().text == name;
}

bool ExpressionParser::take_symbol(std::string_view symbol) {
  if (!is_symbol(symbol)) return false;
  take();
  return true;
}

bool ExpressionParser::take_name(std::string_view name) {
  if (!is_name(name)) return false;
  take();
  return true;
}

void ExpressionParser::expect_symbol(std::string_view symbol) {
  if (!take_symbol(symbol)) fail_here(std::string(symbol));
}

void ExpressionParser::expect_name(std::string_view name) {
  if (!take_name(name)) fail_here(std::string(name));
}

std::string ExpressionParser::expect_any_name() {
  if (current().kind != Token::Kind::name) fail_here("a name");
  return take().text;
}

void ExpressionParser::fail_here(const std::string& expected) const {
  fail_syntax(line(), "found " + shown(current()) + ", expected " + expected);
}

void ExpressionParser::set_depth(Expression& node) const {
  node.depth = 1;
  const auto include = [&](const ExpressionPointer& part) {
    if (part) node.depth = std::max(node.depth, 1 + part->depth);
  };
  for (const auto& part : node.parts) include(part);
  for (const auto& keyword : node.keywords) include(keyword.second);
  if (node.depth > kMaxSyntaxDepth) fail_unsupported(node.line, "an expression is too long");
}

ExpressionPointer ExpressionParser::make(Op op, int line_of, std::vector<ExpressionPointer> parts,
                                         std::string name) {
  auto node = std::make_unique<Expression>();
  node->op = op;
  node->line = line_of;
  node->parts = std::move(parts);
  node->name = std::move(name);
  set_depth(*node);
  return node;
}

ExpressionPointer ExpressionParser::parse_expression(bool with_condition) {
  const Level level(*this);
  if (!with_condition) return parse_or();
  ExpressionPointer value = parse_or();
  while (is_name("if")) {
    const int line_of = take().line;
    ExpressionPointer condition = parse_or();
    ExpressionPointer other = take_name("else") ? parse_expression() : nullptr;
    value = make(Op::conditional, line_of,
                 together(std::move(condition), std::move(value), std::move(other)));
  }
  return value;
}

ExpressionPointer ExpressionParser::parse_tuple(bool with_condition) {
  const int line_of = line();
  std::vector<ExpressionPointer> parts = together(parse_expression(with_condition));
  if (!is_symbol(",")) return std::move(parts[0]);
  while (take_symbol(",")) {
    const bool ends = current().kind == Token::Kind::variable_end ||
                      current().kind == Token::Kind::block_end || is_symbol(")");
    if (ends) break;
    parts.push_back(parse_expression(with_condition));
  }
  return make(Op::tuple, line_of, std::move(parts));
}

ExpressionPointer ExpressionParser::parse_or() {
  ExpressionPointer left = parse_and();
  while (is_name("or")) {
    const int line_of = take().line;
    ExpressionPointer right = parse_and();
    left = make(Op::logical_or, line_of, together(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_and() {
  ExpressionPointer left = parse_not();
  while (is_name("and")) {
    const int line_of = take().line;
    ExpressionPointer right = parse_not();
    left = make(Op::logical_and, line_of, together(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_not() {
  if (!is_name("not")) return parse_compare();
  const Level level(*this);
  const int line_of = take().line;
  return make(Op::logical_not, line_of, together(parse_not()));
}

ExpressionPointer ExpressionParser::parse_compare() {
  static constexpr std::pair<std::string_view, Comparison> kComparisons[] = {
      {"==", Comparison::equal},  {"!=", Comparison::unequal},
      {"<", Comparison::less},    {"<=", Comparison::less_equal},
      {">", Comparison::greater}, {">=", Comparison::greater_equal},
  };
  const int line_of = line();
  std::vector<ExpressionPointer> parts = together(parse_sum());
  std::vector<Comparison> comparisons;
  for (;;) {
    const auto* const symbol =
        std::find_if(std::begin(kComparisons), std::end(kComparisons),
                     [&](const auto& comparison) { return is_symbol(comparison.first); });
    if (symbol != std::end(kComparisons)) {
      take();
      comparisons.push_back(symbol->second);
    } else if (take_name("in")) {
      comparisons.push_back(Comparison::in);
    } else if (is_name("not") && tokens_[at_ + 1].kind == Token::Kind::name &&
               tokens_[at_ + 1].text == "in") {
      take();
      take();
      comparisons.push_back(Comparison::not_in);
    } else {
      break;
    }
    parts.push_back(parse_sum());
  }
  if (comparisons.empty()) return std::move(parts[0]);
  ExpressionPointer node = make(Op::compare, line_of, std::move(parts));
  node->comparisons = std::move(comparisons);
  return node;
}

ExpressionPointer ExpressionParser::parse_sum() {
  ExpressionPointer left = parse_concatenation();
  while (is_symbol("+") || is_symbol("-")) {
    const Token symbol = take();
    ExpressionPointer right = parse_concatenation();
    left = make(symbol.text == "+" ? Op::add : Op::subtract, symbol.line,
                together(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_concatenation() {
  const int line_of = line();
  std::vector<ExpressionPointer> parts = together(parse_product());
  while (take_symbol("~")) parts.push_back(parse_product());
  if (parts.size() == 1) return std::move(parts[0]);
  return make(Op::concatenate, line_of, std::move(parts));
}

ExpressionPointer ExpressionParser::parse_product() {
  static constexpr std::pair<std::string_view, Op> kOperators[] = {
      {"*", Op::multiply}, {"/", Op::divide}, {"//", Op::floor_divide}, {"%", Op::modulo}};
  ExpressionPointer left = parse_power();
  for (;;) {
    const auto* const symbol =
        std::find_if(std::begin(kOperators), std::end(kOperators),
                     [&](const auto& candidate) { return is_symbol(candidate.first); });
    if (symbol == std::end(kOperators)) return left;
    const int line_of = take().line;
    ExpressionPointer right = parse_power();
    left = make(symbol->second, line_of, together(std::move(left), std::move(right)));
  }
}

ExpressionPointer ExpressionParser::parse_power() {
  ExpressionPointer left = parse_unary();
  while (is_symbol("**")) {
    const int line_of = take().line;
    ExpressionPointer right = parse_unary();
    left = make(Op::power, line_of, together(std::move(left), std::move(right)));
  }
  return left;
}

ExpressionPointer ExpressionParser::parse_unary(bool with_filters) {
  const Level level(*this);
  ExpressionPointer value;
  if (is_symbol("-") || is_symbol("+")) {
    const Token symbol = take();
    value = make(symbol.text == "-" ? Op::negate : Op::positive, symbol.line,
                 together(parse_unary(false)));
  } else {
    value = parse_primary();
  }
  value = parse_postfix(std::move(value));
  if (!with_filters) return value;
  // Filters and tests bind before every operator but the signs.
  for (;;) {
    if (take_symbol("|")) {
      value = parse_filter(std::move(value));
    } else if (take_name("is")) {
      value = parse_test(std::move(value));
    } else if (is_symbol("(")) {
      value = parse_postfix(std::move(value));
    } else {
      return value;
    }
  }
}

ExpressionPointer ExpressionParser::parse_primary() {
  const Token token = current();
  if (token.kind == Token::Kind::integer || token.kind == Token::Kind::real) return parse_number();
  if (token.kind == Token::Kind::name) {
    take();
    ExpressionPointer node = make(Op::constant, token.line, {});
    if (token.text == "true" || token.text == "True") {
      node->constant = Value::boolean(true);
    } else if (token.text == "false" || token.text == "False") {
      node->constant = Value::boolean(false);
    } else if (token.text == "none" || token.text == "None") {
      node->constant = Value::none();
    } else {
      node->op = Op::name;
      node->name = token.text;
    }
    return node;
  }
  if (token.kind == Token::Kind::string) {
    std::string text;
    while (current().kind == Token::Kind::string) text += take().text;  // neighbours are joined
    ExpressionPointer node = make(Op::constant, token.line, {});
    node->constant = Value::text(std::move(text));
    return node;
  }
  if (take_symbol("(")) {
    if (take_symbol(")")) return make(Op::tuple, token.line, {});
    ExpressionPointer node = parse_tuple();
    expect_symbol(")");
    return node;
  }
  if (is_symbol("[")) return parse_list();
  if (is_symbol("{")) return parse_dict();
  fail_here("an expression");
}

ExpressionPointer ExpressionParser::parse_number() {
  const Token token = take();
  ExpressionPointer node = make(Op::constant, token.line, {});
  const std::string& digits = token.text;
  if (token.kind == Token::Kind::real) {
    node->constant = Value::real(std::strtod(digits.c_str(), nullptr));
    return node;
  }
  const char kind = digits.size() > 1 ? digits[1] : '0';
  const int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
  const char* const begin = digits.data() + (base == 10 ? 0 : 2);
  int64_t value = 0;
  const auto result = std::from_chars(begin, digits.data() + digits.size(), value, base);
  if (result.ec != std::errc()) fail_unsupported(token.line, "an integer of more than 64 bits");
  node->constant = Value::integer(value);
  return node;
}

ExpressionPointer ExpressionParser::parse_list() {
  const int line_of = take().line;
  std::vector<ExpressionPointer> parts;
  while (!is_symbol("]")) {
    if (!parts.empty()) expect_symbol(",");
    if (is_symbol("]")) break;
    parts.push_back(parse_expression());
  }
  expect_symbol("]");
  return make(Op::list, line_of, std::move(parts));
}

ExpressionPointer ExpressionParser::parse_dict() {
  const int line_of = take().line;
  std::vector<ExpressionPointer> parts;
  while (!is_symbol("}")) {
    if (!parts.empty()) expect_symbol(",");
    if (is_symbol("}")) break;
    parts.push_back(parse_expression());
    expect_symbol(":");
    parts.push_back(parse_expression());
  }
  expect_symbol("}");
  return make(Op::dict, line_of, std::move(parts));
}

ExpressionPointer ExpressionParser::parse_postfix(ExpressionPointer value) {
  for (;;) {
    const int line_of = line();
    if (take_symbol(".")) {
      if (current().kind == Token::Kind::integer) {  // x.0 is x[0]
        value = make(Op::item, line_of, together(std::move(value), parse_number()));
      } else {
        std::string name = expect_any_name();
        value = make(Op::attribute, line_of, together(std::move(value)), std::move(name));
      }
    } else if (take_symbol("[")) {
      value = parse_subscript(std::move(value));
    } else if (is_symbol("(")) {
      value = make(Op::call, line_of, together(std::move(value)));
      parse_arguments(*value);
    } else {
      return value;
    }
  }
}

ExpressionPointer ExpressionParser::parse_subscript(ExpressionPointer value) {
  const int line_of = line();
  ExpressionPointer bounds[3];
  int colons = 0;
  while (!is_symbol("]")) {
    if (is_symbol(",")) fail_unsupported(line_of, "a subscript with a comma");
    if (take_symbol(":")) {
      if (++colons > 2) fail_here("]");
      continue;
    }
    if (bounds[colons]) fail_here("]");
    bounds[colons] = parse_expression();
  }
  take();
  if (colons > 0) {
    return make(Op::slice, line_of,
                together(std::move(value), std::move(bounds[0]), std::move(bounds[1]),
                         std::move(bounds[2])));
  }
  if (!bounds[0]) fail_syntax(line_of, "found [], expected a subscript");
  return make(Op::item, line_of, together(std::move(value), std::move(bounds[0])));
}

void ExpressionParser::parse_arguments(Expression& call) {
  expect_symbol("(");
  bool first = true;
  while (!is_symbol(")")) {
    if (!std::exchange(first, false)) expect_symbol(",");
    if (is_symbol(")")) break;
    if (is_symbol("*") || is_symbol("**")) {
      fail_unsupported(line(), "a call with " + current().text + " before an argument");
    }
    const bool keyword = current().kind == Token::Kind::name &&
                         tokens_[at_ + 1].kind == Token::Kind::symbol &&
                         tokens_[at_ + 1].text == "=";
    if (keyword) {
      std::string name = take().text;
      take();
      call.keywords.emplace_back(std::move(name), parse_expression());
    } else {
      if (!call.keywords.empty()) fail_here("a named argument");
      call.parts.push_back(parse_expression());
    }
  }
  expect_symbol(")");
  set_depth(call);
}

ExpressionPointer ExpressionParser::parse_filter(ExpressionPointer value) {
  const int line_of = line();
  std::string name = expect_any_name();
  if (!is_filter(name) && branches_ == 0)
    fail_unsupported(line_of, "the filter " + printable(name) + " is unknown");
  ExpressionPointer node = make(Op::filter, line_of, together(std::move(value)), std::move(name));
  if (is_symbol("(")) parse_arguments(*node);
  return node;
}

ExpressionPointer ExpressionParser::parse_filters(ExpressionPointer value, bool begins_with_bar) {
  if (!begins_with_bar) value = parse_filter(std::move(value));
  while (take_symbol("|")) value = parse_filter(std::move(value));
  return value;
}

ExpressionPointer ExpressionParser::parse_test(ExpressionPointer value) {
  const int line_of = line();
  const bool negated = take_name("not");
  std::string name = expect_any_name();
  if (!is_check(name) && branches_ == 0)
    fail_unsupported(line_of, "the test " + printable(name) + " is unknown");
  ExpressionPointer node = make(Op::test, line_of, together(std::move(value)), std::move(name));
  const Token::Kind kind = current().kind;
  const bool operand = kind == Token::Kind::name || kind == Token::Kind::string ||
                       kind == Token::Kind::integer || kind == Token::Kind::real ||
                       is_symbol("[") || is_symbol("{");
  if (is_symbol("(")) {
    parse_arguments(*node);
  } else if (operand && !is_name("else") && !is_name("or") && !is_name("and")) {
    // One argument may follow without parentheses: x is divisibleby 3.
    if (is_name("is")) fail_here("one test");
    node->parts.push_back(parse_postfix(parse_primary()));
    set_depth(*node);
  }
  if (!negated) return node;
  return make(Op::logical_not, line_of, together(std::move(node)));
}

}  // namespace osp::jinja
