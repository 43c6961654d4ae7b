#include "osp/template/parser.h"

#include <algorithm>
#include <initializer_list>
#include <memory>

#include "osp/base/printable.h"
#include "osp/template/expression_parser.h"
#include "osp/tokenizer/utf8.h"

namespace osp::jinja {
namespace {

constexpr size_t kMaxTemplateBytes = 1u << 20;

using StatementPointer = std::unique_ptr<Statement>;

class StatementParser {
 public:
  explicit StatementParser(std::vector<Token> tokens) : parser_(std::move(tokens)) {}

  Body parse() {
    Body body = parse_body({});
    return body;
  }

 private:
  using Ends = std::initializer_list<std::string_view>;

  StatementPointer make(Statement::Kind kind, int line) const {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }

  void expect_block_end() {
    if (parser_.current().kind != Token::Kind::block_end) parser_.fail_here("%}");
    parser_.take();
  }

  // Statements up to a tag whose name is one of `ends`; that name is then the current token.
  Body parse_body(Ends ends) {
    const ExpressionParser::Level level(parser_);
    Body body;
    for (;;) {
      const Token token = parser_.take();
      if (token.kind == Token::Kind::text) {
        body.push_back(make(Statement::Kind::text, token.line));
        body.back()->text = token.text;
      } else if (token.kind == Token::Kind::variable_begin) {
        body.push_back(make(Statement::Kind::output, token.line));
        body.back()->value = parser_.parse_tuple();
        if (parser_.current().kind != Token::Kind::variable_end) parser_.fail_here("}}");
        parser_.take();
      } else if (token.kind == Token::Kind::block_begin) {
        if (parser_.current().kind != Token::Kind::name) parser_.fail_here("a statement");
        if (std::any_of(ends.begin(), ends.end(),
                        [&](std::string_view end) { return parser_.is_name(end); })) {
          return body;
        }
        body.push_back(parse_statement());
      } else {
        if (ends.size() == 0) return body;
        parser_.fail_here(std::string(*(ends.end() - 1)));
      }
    }
  }

  // The body of a block that ends with {% NAME %}.
  Body parse_block(std::string_view end) {
    Body body = parse_body({end});
    parser_.take();
    return body;
  }

  StatementPointer parse_statement() {
    const Token token = parser_.take();
    const std::string& name = token.text;
    StatementPointer statement;
    if (name == "if") {
      statement = parse_if(token.line);
    } else if (name == "for") {
      statement = parse_for(token.line);
    } else if (name == "set") {
      statement = parse_set(token.line);
    } else if (name == "macro") {
      statement = parse_macro(token.line);
    } else if (name == "filter") {
      statement = make(Statement::Kind::filter, token.line);
      statement->value = parser_.parse_filters(nullptr, false);
      expect_block_end();
      statement->bodies.push_back(parse_inner("endfilter"));
    } else if (name == "generation") {
      statement = make(Statement::Kind::generation, token.line);
      expect_block_end();
      statement->bodies.push_back(parse_inner("endgeneration"));
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_unsupported(token.line, "the statement " + name + " is in no loop");
      statement =
          make(name == "break" ? Statement::Kind::loop_break : Statement::Kind::loop_continue,
               token.line);
    } else if (name.starts_with("end") || name == "else" || name == "elif") {
      fail_syntax(token.line, "found {% " + printable(name) + " %} without its beginning");
    } else {
      fail_unsupported(token.line, "the statement " + printable(name) + " is unknown");
    }
    expect_block_end();
    return statement;
  }

  // A body that is no part of a loop around it.
  Body parse_inner(std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    Body body = parse_block(end);
    loops_ = loops;
    return body;
  }

  StatementPointer parse_if(int line) {
    const ExpressionParser::Branch branch(parser_);
    StatementPointer statement = make(Statement::Kind::branches, line);
    for (;;) {
      statement->conditions.push_back(parser_.parse_tuple(false));
      expect_block_end();
      statement->bodies.push_back(parse_body({"elif", "else", "endif"}));
      if (!parser_.take_name("elif")) break;
    }
    if (parser_.take_name("else")) {
      expect_block_end();
      statement->conditions.push_back(nullptr);
      statement->bodies.push_back(parse_body({"endif"}));
    }
    parser_.expect_name("endif");
    return statement;
  }

  StatementPointer parse_for(int line) {
    StatementPointer statement = make(Statement::Kind::loop, line);
    statement->target = parse_target(false);
    if (names_loop(statement->target)) fail_syntax(line, "a loop cannot assign to loop");
    parser_.expect_name("in");
    statement->value = parser_.parse_tuple(false);
    if (parser_.take_name("if")) statement->conditions.push_back(parser_.parse_expression());
    if (parser_.is_name("recursive")) fail_unsupported(line, "a recursive loop");
    expect_block_end();
    ++loops_;
    statement->bodies.push_back(parse_body({"else", "endfor"}));
    --loops_;
    if (parser_.take_name("else")) {
      expect_block_end();
      statement->bodies.push_back(parse_body({"endfor"}));
    }
    parser_.expect_name("endfor");
    return statement;
  }

  StatementPointer parse_set(int line) {
    StatementPointer statement = make(Statement::Kind::set, line);
    statement->target = parse_target(true);
    if (parser_.take_symbol("=")) {
      statement->value = parser_.parse_tuple();
      return statement;
    }
    statement->kind = Statement::Kind::set_block;
    if (parser_.is_symbol("|")) statement->value = parser_.parse_filters(nullptr, true);
    expect_block_end();
    statement->bodies.push_back(parse_inner("endset"));
    return statement;
  }

  StatementPointer parse_macro(int line) {
    StatementPointer statement = make(Statement::Kind::macro, line);
    statement->text = expect_assignable();
    parser_.expect_symbol("(");
    bool defaults = false;
    while (!parser_.is_symbol(")")) {
      if (!statement->parameters.empty()) parser_.expect_symbol(",");
      std::string name = expect_assignable();
      ExpressionPointer value;
      if (parser_.take_symbol("=")) {
        value = parser_.parse_expression();
        defaults = true;
      } else if (defaults) {
        parser_.fail_here("a default, as an earlier parameter has one");
      }
      for (const auto& parameter : statement->parameters) {
        if (parameter.first == name) fail_syntax(line, "a macro has a parameter twice");
      }
      statement->parameters.emplace_back(std::move(name), std::move(value));
    }
    parser_.take();
    expect_block_end();
    statement->bodies.push_back(parse_inner("endmacro"));
    return statement;
  }

  static bool is_constant_name(const std::string& name) {
    return name == "true" || name == "True" || name == "false" || name == "False" ||
           name == "none" || name == "None";
  }

  std::string expect_assignable() {
    const int line = parser_.line();
    std::string name = parser_.expect_any_name();
    if (is_constant_name(name)) fail_syntax(line, "cannot assign to " + name);
    return name;
  }

  Target parse_target(bool with_attributes) {
    Target first = parse_single_target(with_attributes);
    if (!parser_.is_symbol(",")) return first;
    Target all;
    all.is_tuple = true;
    all.items.push_back(std::move(first));
    while (parser_.take_symbol(",")) {
      const bool ends = parser_.current().kind == Token::Kind::block_end ||
                        parser_.is_symbol(")") || parser_.is_symbol("=") || parser_.is_name("in");
      if (ends) break;
      all.items.push_back(parse_single_target(with_attributes));
    }
    return all;
  }

  Target parse_single_target(bool with_attributes) {
    const ExpressionParser::Level level(parser_);
    if (parser_.take_symbol("(")) {
      Target inner = parse_target(with_attributes);
      parser_.expect_symbol(")");
      return inner;
    }
    Target target;
    target.name = expect_assignable();
    if (with_attributes && parser_.take_symbol(".")) target.attribute = parser_.expect_any_name();
    return target;
  }

  static bool names_loop(const Target& target) {
    return target.name == "loop" ||
           std::any_of(target.items.begin(), target.items.end(), names_loop);
  }

  ExpressionParser parser_;
  int loops_ = 0;  // around the present statement
};

}  // namespace

Body parse_template(std::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    fail_unsupported(1, "the template has more than 1 MiB");
  }
  if (tokenizer::valid_utf8_prefix(source) != source.size()) {
    fail_syntax(1, "the template is not UTF-8");
  }
  return StatementParser(tokenize(source)).parse();
}

}  // namespace osp::jinja
