#pragma once
// Tokens -> tree. Recursion is limited, and so is the depth of the tree: evaluating and freeing
// it cannot overflow the stack.

#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/jinja/ast.h"
#include "runtime/jinja/lexer.h"

namespace tenfold::jinja {

inline constexpr int kMaxNesting = 200;  // (( )) and {% if %}{% if %} count two and one
inline constexpr int kMaxTreeDepth = 250;

// Throws bad_file ("chat template, line N: ...").
Block parse(std::string_view source);

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Block parse_template();

 private:
  class Nested {
   public:
    explicit Nested(Parser& parser);
    ~Nested() { --parser_.nesting_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    Parser& parser_;
  };

  // Tokens.
  const Token& peek(std::size_t ahead = 0) const;
  bool at_op(std::string_view op) const;
  bool at_name(std::string_view name) const;
  bool skip_op(std::string_view op);
  bool skip_name(std::string_view name);
  void expect_op(std::string_view op);
  std::string expect_name(std::string_view what);
  void expect(TokenKind kind, std::string_view what);
  [[noreturn]] void unexpected(std::string_view wanted) const;

  // Statements.
  Block parse_block(std::initializer_list<std::string_view> ends);
  void parse_tag(Block& block);
  std::unique_ptr<Statement> make_statement(StatementKind kind) const;
  void end_block(std::string_view name);
  Statement::Case parse_case();
  std::unique_ptr<Statement> parse_if();
  std::unique_ptr<Statement> parse_for();
  std::unique_ptr<Statement> parse_set();
  std::unique_ptr<Statement> parse_macro();
  std::unique_ptr<Statement> parse_call_block();
  std::unique_ptr<Statement> parse_filter_block();
  std::unique_ptr<Statement> parse_with();
  std::unique_ptr<Statement> parse_generation();
  std::unique_ptr<Statement> parse_loop_control(StatementKind kind);
  void parse_parameters(Statement& macro);
  ExpressionPtr parse_target();
  ExpressionPtr parse_single_target();

  // Expressions, loosest binding first.
  ExpressionPtr make(ExpressionKind kind) const;
  void adopt(Expression& parent, ExpressionPtr child) const;
  ExpressionPtr make_literal(const Value& value) const;
  ExpressionPtr binary(Op op, ExpressionPtr left, ExpressionPtr right) const;
  ExpressionPtr parse_expression() { return parse_conditional(); }
  ExpressionPtr parse_tuple(bool allow_conditional);
  ExpressionPtr parse_conditional();
  ExpressionPtr parse_or();
  ExpressionPtr parse_and();
  ExpressionPtr parse_not();
  ExpressionPtr parse_compare();
  ExpressionPtr parse_sum();
  ExpressionPtr parse_concat();
  ExpressionPtr parse_product();
  ExpressionPtr parse_power();
  ExpressionPtr parse_unary(bool with_filters);
  ExpressionPtr parse_primary();
  ExpressionPtr parse_name();
  ExpressionPtr parse_string();
  ExpressionPtr parse_number();
  ExpressionPtr parse_parentheses();
  ExpressionPtr parse_list();
  ExpressionPtr parse_dict();
  ExpressionPtr parse_postfix(ExpressionPtr node);
  ExpressionPtr parse_filters(ExpressionPtr node);
  ExpressionPtr parse_attribute(ExpressionPtr object);
  ExpressionPtr parse_subscript(ExpressionPtr object);
  ExpressionPtr parse_filter(ExpressionPtr input);
  ExpressionPtr parse_test(ExpressionPtr subject);
  ExpressionPtr parse_call(ExpressionPtr callee);
  void parse_arguments(Expression& call);
  bool at_expression_end() const;

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
  bool saw_varargs_ = false, saw_kwargs_ = false;
};

}  // namespace tenfold::jinja
