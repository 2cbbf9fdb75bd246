#include "runtime/jinja/parser.h"

#include <algorithm>

namespace tenfold::jinja {

Parser::Nested::Nested(Parser& parser) : parser_(parser) {
  if (parser.nesting_ >= kMaxNesting)
    template_error(parser.peek().line, "nested more than {} levels deep", kMaxNesting);
  ++parser.nesting_;
}

const Token& Parser::peek(std::size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];  // the last one is `end`
}

bool Parser::at_op(std::string_view op) const {
  return peek().kind == TokenKind::op && peek().text == op;
}

bool Parser::at_name(std::string_view name) const {
  return peek().kind == TokenKind::name && peek().text == name;
}

bool Parser::skip_op(std::string_view op) {
  const bool found = at_op(op);
  at_ += found ? 1 : 0;
  return found;
}

bool Parser::skip_name(std::string_view name) {
  const bool found = at_name(name);
  at_ += found ? 1 : 0;
  return found;
}

void Parser::unexpected(std::string_view wanted) const {
  const Token& token = peek();
  switch (token.kind) {
    case TokenKind::end:
      template_error(token.line, "expected {}, found the end", wanted);
    case TokenKind::output_end:
    case TokenKind::block_end:
      template_error(token.line, "expected {}, found the end of the tag", wanted);
    default:
      template_error(token.line, "expected {}, found '{}'", wanted, token.text);
  }
}

void Parser::expect_op(std::string_view op) {
  if (!skip_op(op)) unexpected(fmt::format("'{}'", op));
}

std::string Parser::expect_name(std::string_view what) {
  if (peek().kind != TokenKind::name) unexpected(what);
  return tokens_[at_++].text;
}

void Parser::expect(TokenKind kind, std::string_view what) {
  if (peek().kind != kind) unexpected(what);
  ++at_;
}

std::unique_ptr<Statement> Parser::make_statement(StatementKind kind) const {
  auto statement = std::make_unique<Statement>();
  statement->kind = kind;
  statement->line = peek().line;
  return statement;
}

Block Parser::parse_template() {
  Block block = parse_block({});
  if (peek().kind != TokenKind::end) unexpected("a tag");
  return block;
}

// Stops before the name of the first tag in `ends`, its "{%" consumed.
Block Parser::parse_block(std::initializer_list<std::string_view> ends) {
  const Nested nested(*this);
  Block block;
  while (true) {
    if (peek().kind == TokenKind::text) {
      block.push_back(make_statement(StatementKind::text));
      block.back()->text = std::move(tokens_[at_++].text);
    } else if (peek().kind == TokenKind::output_begin) {
      block.push_back(make_statement(StatementKind::output));
      ++at_;
      block.back()->value = parse_tuple(true);
      expect(TokenKind::output_end, "'}}'");
    } else if (peek().kind == TokenKind::block_begin) {
      ++at_;
      if (std::any_of(ends.begin(), ends.end(), [this](auto end) { return at_name(end); }))
        return block;
      parse_tag(block);
    } else {
      if (ends.size() > 0) unexpected(fmt::format("'{}'", *(ends.end() - 1)));
      return block;
    }
  }
}

void Parser::parse_tag(Block& block) {
  const int line = peek().line;
  const std::string name = expect_name("a tag name");
  if (name == "if") {
    block.push_back(parse_if());
  } else if (name == "for") {
    block.push_back(parse_for());
  } else if (name == "set") {
    block.push_back(parse_set());
  } else if (name == "macro") {
    block.push_back(parse_macro());
  } else if (name == "call") {
    block.push_back(parse_call_block());
  } else if (name == "filter") {
    block.push_back(parse_filter_block());
  } else if (name == "with") {
    block.push_back(parse_with());
  } else if (name == "generation") {
    block.push_back(parse_generation());
  } else if (name == "break" || name == "continue") {
    block.push_back(parse_loop_control(name == "break" ? StatementKind::break_loop
                                                       : StatementKind::continue_loop));
  } else {
    template_error(line, "the tag '{}' is unknown, misplaced or not supported", name);
  }
}

void Parser::end_block(std::string_view name) {
  if (!skip_name(name)) unexpected(fmt::format("'{}'", name));
  expect(TokenKind::block_end, "'%}'");
}

Statement::Case Parser::parse_case() {
  Statement::Case result;
  result.condition = parse_tuple(false);
  expect(TokenKind::block_end, "'%}'");
  result.body = parse_block({"elif", "else", "endif"});
  return result;
}

std::unique_ptr<Statement> Parser::parse_if() {
  auto statement = make_statement(StatementKind::branch);
  statement->cases.push_back(parse_case());
  while (skip_name("elif")) statement->cases.push_back(parse_case());
  if (skip_name("else")) {
    expect(TokenKind::block_end, "'%}'");
    statement->cases.push_back({nullptr, parse_block({"endif"})});
  }
  end_block("endif");
  return statement;
}

std::unique_ptr<Statement> Parser::parse_for() {
  auto statement = make_statement(StatementKind::loop);
  statement->target = parse_target();
  if (statement->target->text == "loop")
    template_error(statement->line, "'loop' cannot be the variable of a loop");
  if (!skip_name("in")) unexpected("'in'");
  statement->value = parse_tuple(false);
  if (skip_name("if")) statement->condition = parse_expression();
  if (at_name("recursive")) template_error(peek().line, "recursive loops are not supported");
  expect(TokenKind::block_end, "'%}'");
  ++loops_;
  statement->body = parse_block({"else", "endfor"});
  --loops_;
  if (skip_name("else")) {
    expect(TokenKind::block_end, "'%}'");
    statement->otherwise = parse_block({"endfor"});
  }
  end_block("endfor");
  return statement;
}

std::unique_ptr<Statement> Parser::parse_set() {
  auto statement = make_statement(StatementKind::assign);
  statement->target = parse_target();
  if (skip_op("=")) {
    statement->value = parse_tuple(true);
    expect(TokenKind::block_end, "'%}'");
    return statement;
  }
  statement->kind = StatementKind::assign_block;
  ExpressionPtr filters;
  while (skip_op("|")) filters = parse_filter(std::move(filters));
  statement->value = std::move(filters);
  expect(TokenKind::block_end, "'%}'");
  statement->body = parse_block({"endset"});
  end_block("endset");
  return statement;
}

void Parser::parse_parameters(Statement& macro) {
  expect_op("(");
  while (!at_op(")")) {
    Statement::Parameter parameter;
    parameter.name = expect_name("a parameter name");
    if (skip_op("=")) {
      parameter.value = parse_expression();
    } else if (!macro.parameters.empty() && macro.parameters.back().value) {
      template_error(peek().line, "the parameter '{}' needs a default, as those before it",
                     parameter.name);
    }
    macro.parameters.push_back(std::move(parameter));
    if (!skip_op(",")) break;
  }
  expect_op(")");
}

std::unique_ptr<Statement> Parser::parse_macro() {
  auto statement = make_statement(StatementKind::macro);
  statement->text = expect_name("a macro name");
  const bool outer_varargs = std::exchange(saw_varargs_, false);
  const bool outer_kwargs = std::exchange(saw_kwargs_, false);
  const int outer_loops = std::exchange(loops_, 0);
  parse_parameters(*statement);
  expect(TokenKind::block_end, "'%}'");
  statement->body = parse_block({"endmacro"});
  end_block("endmacro");
  statement->takes_varargs = std::exchange(saw_varargs_, outer_varargs);
  statement->takes_kwargs = std::exchange(saw_kwargs_, outer_kwargs);
  loops_ = outer_loops;
  return statement;
}

std::unique_ptr<Statement> Parser::parse_call_block() {
  auto statement = make_statement(StatementKind::call_block);
  statement->text = "caller";
  const int outer_loops = std::exchange(loops_, 0);
  if (at_op("(")) parse_parameters(*statement);
  statement->value = parse_expression();
  if (statement->value->kind != ExpressionKind::call) unexpected("a macro call");
  expect(TokenKind::block_end, "'%}'");
  statement->body = parse_block({"endcall"});
  end_block("endcall");
  loops_ = outer_loops;
  return statement;
}

std::unique_ptr<Statement> Parser::parse_filter_block() {
  auto statement = make_statement(StatementKind::filter_block);
  do statement->value = parse_filter(std::move(statement->value));
  while (skip_op("|"));
  expect(TokenKind::block_end, "'%}'");
  statement->body = parse_block({"endfilter"});
  end_block("endfilter");
  return statement;
}

std::unique_ptr<Statement> Parser::parse_with() {
  auto statement = make_statement(StatementKind::scope);
  while (peek().kind != TokenKind::block_end) {
    if (!statement->parameters.empty()) expect_op(",");
    Statement::Parameter parameter;
    parameter.name = expect_name("a variable name");
    expect_op("=");
    parameter.value = parse_expression();
    statement->parameters.push_back(std::move(parameter));
  }
  ++at_;
  statement->body = parse_block({"endwith"});
  end_block("endwith");
  return statement;
}

// Hugging Face marks what the assistant said for training; here it is only a scope.
std::unique_ptr<Statement> Parser::parse_generation() {
  auto statement = make_statement(StatementKind::scope);
  expect(TokenKind::block_end, "'%}'");
  statement->body = parse_block({"endgeneration"});
  end_block("endgeneration");
  return statement;
}

std::unique_ptr<Statement> Parser::parse_loop_control(StatementKind kind) {
  auto statement = make_statement(kind);
  if (loops_ == 0)
    template_error(statement->line, "'{}' outside a loop",
                   kind == StatementKind::break_loop ? "break" : "continue");
  expect(TokenKind::block_end, "'%}'");
  return statement;
}

// A name, a namespace attribute, or a tuple of them.
ExpressionPtr Parser::parse_target() {
  auto tuple = make(ExpressionKind::tuple);
  bool comma = false;
  do {
    adopt(*tuple, parse_single_target());
    comma = skip_op(",");
  } while (comma && !at_name("in") && !at_op("=") && !at_op(")"));
  if (tuple->args.size() == 1 && !comma) return std::move(tuple->args[0]);
  return tuple;
}

ExpressionPtr Parser::parse_single_target() {
  if (skip_op("(")) {
    const Nested nested(*this);
    ExpressionPtr inner = parse_target();
    expect_op(")");
    return inner;
  }
  auto node = make(ExpressionKind::name);
  node->text = expect_name("a variable name");
  for (const std::string_view constant : {"true", "false", "none", "True", "False", "None"})
    if (node->text == constant) template_error(node->line, "cannot assign to '{}'", constant);
  if (!skip_op(".")) return node;
  auto attribute = make(ExpressionKind::attribute);
  attribute->text = expect_name("an attribute name");
  adopt(*attribute, std::move(node));
  return attribute;
}

Block parse(std::string_view source) { return Parser(tokenize(source)).parse_template(); }

}  // namespace tenfold::jinja
