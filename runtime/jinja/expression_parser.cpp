#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "runtime/jinja/parser.h"

namespace tenfold::jinja {

ExpressionPtr Parser::make(ExpressionKind kind) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = peek().line;
  return node;
}

void Parser::adopt(Expression& parent, ExpressionPtr child) const {
  if (child) {
    parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxTreeDepth)
      template_error(child->line, "an expression is more than {} levels deep", kMaxTreeDepth);
  }
  parent.args.push_back(std::move(child));
}

ExpressionPtr Parser::make_literal(const Value& value) const {
  auto node = make(ExpressionKind::literal);
  node->value = value;
  return node;
}

ExpressionPtr Parser::binary(Op op, ExpressionPtr left, ExpressionPtr right) const {
  auto node = make(ExpressionKind::binary);
  node->line = left->line;
  node->ops = {op};
  adopt(*node, std::move(left));
  adopt(*node, std::move(right));
  return node;
}

bool Parser::at_expression_end() const {
  const TokenKind kind = peek().kind;
  return kind == TokenKind::block_end || kind == TokenKind::output_end || kind == TokenKind::end ||
         at_op(")") || at_op("=") || at_name("in") || at_name("recursive");
}

// "a, b" without parentheses; a single expression stays itself.
ExpressionPtr Parser::parse_tuple(bool allow_conditional) {
  auto tuple = make(ExpressionKind::tuple);
  bool comma = false;
  while (!at_expression_end()) {
    adopt(*tuple, allow_conditional ? parse_conditional() : parse_or());
    comma = skip_op(",");
    if (!comma) break;
  }
  if (tuple->args.empty()) unexpected("an expression");
  if (tuple->args.size() == 1 && !comma) return std::move(tuple->args[0]);
  return tuple;
}

ExpressionPtr Parser::parse_conditional() {
  const Nested nested(*this);
  ExpressionPtr value = parse_or();
  while (skip_name("if")) {
    auto node = make(ExpressionKind::conditional);
    adopt(*node, std::move(value));
    adopt(*node, parse_or());
    adopt(*node, skip_name("else") ? parse_conditional() : nullptr);
    value = std::move(node);
  }
  return value;
}

ExpressionPtr Parser::parse_or() {
  ExpressionPtr left = parse_and();
  while (skip_name("or")) left = binary(Op::logic_or, std::move(left), parse_and());
  return left;
}

ExpressionPtr Parser::parse_and() {
  ExpressionPtr left = parse_not();
  while (skip_name("and")) left = binary(Op::logic_and, std::move(left), parse_not());
  return left;
}

ExpressionPtr Parser::parse_not() {
  if (!at_name("not")) return parse_compare();
  const Nested nested(*this);
  auto node = make(ExpressionKind::unary);
  node->ops = {Op::logic_not};
  skip_name("not");
  adopt(*node, parse_not());
  return node;
}

ExpressionPtr Parser::parse_compare() {
  static constexpr std::array<std::pair<std::string_view, Op>, 6> kOps = {
      {{"==", Op::equal},
       {"!=", Op::not_equal},
       {"<", Op::less},
       {"<=", Op::less_equal},
       {">", Op::greater},
       {">=", Op::greater_equal}}};
  ExpressionPtr first = parse_sum();
  ExpressionPtr node;
  const auto add = [&](Op op) {
    if (!node) {
      node = make(ExpressionKind::compare);
      adopt(*node, std::move(first));
    }
    node->ops.push_back(op);
    adopt(*node, parse_sum());
  };
  while (true) {
    const auto op = std::find_if(kOps.begin(), kOps.end(),
                                 [this](const auto& entry) { return at_op(entry.first); });
    if (op != kOps.end()) {
      ++at_;
      add(op->second);
    } else if (skip_name("in")) {
      add(Op::in);
    } else if (at_name("not") && peek(1).kind == TokenKind::name && peek(1).text == "in") {
      at_ += 2;
      add(Op::not_in);
    } else {
      return node ? std::move(node) : std::move(first);
    }
  }
}

ExpressionPtr Parser::parse_sum() {
  ExpressionPtr left = parse_concat();
  while (at_op("+") || at_op("-")) {
    const Op op = at_op("+") ? Op::add : Op::subtract;
    ++at_;
    left = binary(op, std::move(left), parse_concat());
  }
  return left;
}

ExpressionPtr Parser::parse_concat() {
  ExpressionPtr first = parse_product();
  if (!at_op("~")) return first;
  auto node = make(ExpressionKind::concat);
  adopt(*node, std::move(first));
  while (skip_op("~")) adopt(*node, parse_product());
  return node;
}

ExpressionPtr Parser::parse_product() {
  ExpressionPtr left = parse_power();
  while (at_op("*") || at_op("/") || at_op("//") || at_op("%")) {
    const Op op = at_op("*")    ? Op::multiply
                  : at_op("/")  ? Op::divide
                  : at_op("//") ? Op::floor_divide
                                : Op::modulo;
    ++at_;
    left = binary(op, std::move(left), parse_power());
  }
  return left;
}

ExpressionPtr Parser::parse_power() {
  ExpressionPtr left = parse_unary(true);
  while (skip_op("**")) left = binary(Op::power, std::move(left), parse_unary(true));
  return left;
}

ExpressionPtr Parser::parse_unary(bool with_filters) {
  const Nested nested(*this);
  ExpressionPtr node;
  if (at_op("-") || at_op("+")) {
    node = make(ExpressionKind::unary);
    node->ops = {at_op("-") ? Op::negate : Op::plus};
    ++at_;
    adopt(*node, parse_unary(false));
  } else {
    node = parse_primary();
  }
  node = parse_postfix(std::move(node));
  return with_filters ? parse_filters(std::move(node)) : std::move(node);
}

ExpressionPtr Parser::parse_primary() {
  switch (peek().kind) {
    case TokenKind::name:
      return parse_name();
    case TokenKind::string:
      return parse_string();
    case TokenKind::integer:
    case TokenKind::floating:
      return parse_number();
    default:
      break;
  }
  if (at_op("(")) return parse_parentheses();
  if (at_op("[")) return parse_list();
  if (at_op("{")) return parse_dict();
  unexpected("an expression");
}

ExpressionPtr Parser::parse_name() {
  ExpressionPtr node;
  const std::string& name = peek().text;
  if (name == "true" || name == "True" || name == "false" || name == "False") {
    node = make_literal(name == "true" || name == "True");
  } else if (name == "none" || name == "None") {
    node = make_literal(None{});
  } else {
    node = make(ExpressionKind::name);
    node->text = name;
    saw_varargs_ |= name == "varargs";
    saw_kwargs_ |= name == "kwargs";
  }
  ++at_;
  return node;
}

ExpressionPtr Parser::parse_string() {
  auto node = make(ExpressionKind::literal);
  for (; peek().kind == TokenKind::string; ++at_) node->text += peek().text;
  node->value = std::string_view(node->text);
  return node;
}

ExpressionPtr Parser::parse_number() {
  const Token& token = peek();
  std::string_view text = token.text;
  if (token.kind == TokenKind::floating) {
    double value = 0;
    const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
    if (result.ec == std::errc::result_out_of_range)
      template_error(token.line, "the number {} is out of range", text);
    auto node = make_literal(value);
    ++at_;
    return node;
  }
  int base = 10;
  if (text.size() > 1 && text[0] == '0' && text[1] > '9') {
    base = text[1] == 'x' ? 16 : text[1] == 'o' ? 8 : 2;
    text.remove_prefix(2);
  }
  std::int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (result.ec != std::errc())
    template_error(token.line, "the number {} is malformed or out of range", token.text);
  auto node = make_literal(value);
  ++at_;
  return node;
}

ExpressionPtr Parser::parse_parentheses() {
  auto empty = make(ExpressionKind::tuple);
  expect_op("(");
  if (skip_op(")")) return empty;
  ExpressionPtr inner = parse_tuple(true);
  expect_op(")");
  return inner;
}

ExpressionPtr Parser::parse_list() {
  auto node = make(ExpressionKind::list);
  expect_op("[");
  while (!at_op("]")) {
    adopt(*node, parse_expression());
    if (!skip_op(",")) break;
  }
  expect_op("]");
  return node;
}

ExpressionPtr Parser::parse_dict() {
  auto node = make(ExpressionKind::dict);
  expect_op("{");
  while (!at_op("}")) {
    adopt(*node, parse_expression());
    expect_op(":");
    adopt(*node, parse_expression());
    if (!skip_op(",")) break;
  }
  expect_op("}");
  return node;
}

ExpressionPtr Parser::parse_postfix(ExpressionPtr node) {
  while (true) {
    if (at_op(".")) {
      node = parse_attribute(std::move(node));
    } else if (at_op("[")) {
      node = parse_subscript(std::move(node));
    } else if (at_op("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::parse_filters(ExpressionPtr node) {
  while (true) {
    if (skip_op("|")) {
      node = parse_filter(std::move(node));
    } else if (skip_name("is")) {
      node = parse_test(std::move(node));
    } else if (at_op("(")) {
      node = parse_call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::parse_attribute(ExpressionPtr object) {
  expect_op(".");
  if (peek().kind == TokenKind::integer) {
    auto node = make(ExpressionKind::item);
    adopt(*node, std::move(object));
    adopt(*node, parse_number());
    return node;
  }
  auto node = make(ExpressionKind::attribute);
  node->text = expect_name("an attribute name");
  adopt(*node, std::move(object));
  return node;
}

ExpressionPtr Parser::parse_subscript(ExpressionPtr object) {
  auto node = make(ExpressionKind::item);
  expect_op("[");
  adopt(*node, std::move(object));
  if (!at_op(":")) {
    adopt(*node, parse_expression());
    if (skip_op("]")) return node;
  } else {
    adopt(*node, nullptr);
  }
  if (at_op(",")) template_error(peek().line, "a subscript with a comma is not supported");
  node->kind = ExpressionKind::slice;
  for (int part = 0; part < 2; ++part) {
    const bool present = skip_op(":") && !at_op(":") && !at_op("]");
    adopt(*node, present ? parse_expression() : nullptr);
  }
  expect_op("]");
  return node;
}

ExpressionPtr Parser::parse_filter(ExpressionPtr input) {
  auto node = make(ExpressionKind::filter);
  node->text = expect_name("a filter name");
  adopt(*node, std::move(input));
  if (at_op("(")) parse_arguments(*node);
  return node;
}

ExpressionPtr Parser::parse_test(ExpressionPtr subject) {
  auto node = make(ExpressionKind::test);
  const bool negated = skip_name("not");
  node->text = expect_name("a test name");
  adopt(*node, std::move(subject));
  const TokenKind kind = peek().kind;
  const bool operand =
      kind == TokenKind::name
          ? !at_name("else") && !at_name("or") && !at_name("and") && !at_name("if")
      : kind == TokenKind::op
          ? at_op("[") || at_op("{")
          : kind == TokenKind::string || kind == TokenKind::integer || kind == TokenKind::floating;
  if (at_op("(")) {
    parse_arguments(*node);
  } else if (operand) {
    if (at_name("is")) template_error(peek().line, "tests cannot be chained with 'is'");
    adopt(*node, parse_postfix(parse_primary()));
  }
  if (!negated) return node;
  auto inverse = make(ExpressionKind::unary);
  inverse->line = node->line;
  inverse->ops = {Op::logic_not};
  adopt(*inverse, std::move(node));
  return inverse;
}

ExpressionPtr Parser::parse_call(ExpressionPtr callee) {
  auto node = make(ExpressionKind::call);
  adopt(*node, std::move(callee));
  parse_arguments(*node);
  return node;
}

void Parser::parse_arguments(Expression& call) {
  expect_op("(");
  while (!at_op(")")) {
    if (at_op("*") || at_op("**"))
      template_error(peek().line, "'{}' in a call is not supported", peek().text);
    const bool is_named =
        peek().kind == TokenKind::name && peek(1).kind == TokenKind::op && peek(1).text == "=";
    if (is_named) {
      std::string name = peek().text;
      at_ += 2;
      ExpressionPtr value = parse_expression();
      call.depth = std::max(call.depth, value->depth + 1);
      call.named.emplace_back(std::move(name), std::move(value));
    } else {
      if (!call.named.empty())
        template_error(peek().line, "a positional argument follows a keyword argument");
      adopt(call, parse_expression());
    }
    if (!skip_op(",")) break;
  }
  expect_op(")");
}

}  // namespace tenfold::jinja
