// Expressions of templates, by recursive descent.
//
// Tested by chat_template_test.cpp and tests/python/test_chat_template.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "osp/template/lexer.h"
#include "osp/template/syntax.h"

namespace osp::jinja {

// Nodes and statements inside each other; more are refused, so that no template fills the stack.
inline constexpr int kMaxSyntaxDepth = 150;

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& current() const { return tokens_[at_]; }
  Token take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is_symbol(std::string_view symbol) const;
  bool is_name(std::string_view name) const;
  bool take_symbol(std::string_view symbol);
  bool take_name(std::string_view name);
  void expect_symbol(std::string_view symbol);
  void expect_name(std::string_view name);
  std::string expect_any_name();
  [[noreturn]] void fail_here(const std::string& expected) const;
  int line() const { return current().line; }

  ExpressionPointer parse_expression(bool with_condition = true);
  // One expression, or a tuple of several without parentheses.
  ExpressionPointer parse_tuple(bool with_condition = true);
  // Filters of a block: | was taken, or nothing for {% filter %}. They apply to a null part.
  ExpressionPointer parse_filters(ExpressionPointer value, bool begins_with_bar);

  // Within, filters and tests that are unknown are refused only when they are reached: Jinja does
  // so in the branches of an if.
  class Branch {
   public:
    explicit Branch(ExpressionParser& parser) : parser_(parser) { ++parser_.branches_; }
    ~Branch() { --parser_.branches_; }
    Branch(const Branch&) = delete;
    Branch& operator=(const Branch&) = delete;

   private:
    ExpressionParser& parser_;
  };

  // Counts levels while a rule calls itself.
  class Level {
   public:
    explicit Level(ExpressionParser& parser);
    ~Level() { --parser_.level_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

 private:
  ExpressionPointer make(Op op, int line, std::vector<ExpressionPointer> parts,
                         std::string name = "");
  void set_depth(Expression& node) const;
  ExpressionPointer parse_or();
  ExpressionPointer parse_and();
  ExpressionPointer parse_not();
  ExpressionPointer parse_compare();
  ExpressionPointer parse_sum();
  ExpressionPointer parse_concatenation();
  ExpressionPointer parse_product();
  ExpressionPointer parse_power();
  ExpressionPointer parse_unary(bool with_filters = true);
  ExpressionPointer parse_primary();
  ExpressionPointer parse_number();
  ExpressionPointer parse_list();
  ExpressionPointer parse_dict();
  ExpressionPointer parse_postfix(ExpressionPointer value);
  ExpressionPointer parse_subscript(ExpressionPointer value);
  ExpressionPointer parse_filter(ExpressionPointer value);
  ExpressionPointer parse_test(ExpressionPointer value);
  void parse_arguments(Expression& call);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int level_ = 0;
  int branches_ = 0;  // that are being parsed
};

}  // namespace osp::jinja
