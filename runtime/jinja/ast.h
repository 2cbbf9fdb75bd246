#pragma once
// The parsed template. Values made while rendering may point into it.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/jinja/value.h"

namespace tenfold::jinja {

enum class Op {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  concat,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in,
  logic_and,
  logic_or,
  logic_not,
  negate,
  plus,
};

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class ExpressionKind {
  literal,      // value
  name,         // text
  tuple,        // args
  list,         // args
  dict,         // args: key, value, key, value...
  attribute,    // args[0] . text
  item,         // args[0] [ args[1] ]
  slice,        // args[0] [ args[1] : args[2] : args[3] ], absent parts null
  call,         // args[0] ( args[1..], named )
  filter,       // args[0] | text ( args[1..], named ); args[0] null in a filter block
  test,         // args[0] is text ( args[1..], named )
  unary,        // ops[0] args[0]
  binary,       // args[0] ops[0] args[1]; logic too
  concat,       // args joined as text
  compare,      // args[0] ops[0] args[1] ops[1] args[2]...
  conditional,  // args[0] if args[1] else args[2] (may be null)
};

struct Expression {
  ExpressionKind kind;
  int line;
  int depth = 1;  // nodes on the longest way down
  std::string text;
  Value value;
  std::vector<ExpressionPtr> args;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<Op> ops;
};

struct Statement;
using Block = std::vector<std::unique_ptr<Statement>>;

enum class StatementKind {
  text,          // text
  output,        // value
  branch,        // cases (condition null: else)
  loop,          // for target in value if condition: body, otherwise
  assign,        // target = value
  assign_block,  // target = body, through the filters of value (may be null)
  macro,         // text(parameters): body
  call_block,    // call(parameters) value: body
  filter_block,  // value applied to body
  scope,         // with parameters (name, value): body
  break_loop,
  continue_loop,
};

struct Statement {
  struct Case {
    ExpressionPtr condition;
    Block body;
  };
  struct Parameter {
    std::string name;
    ExpressionPtr value;  // default; null: required
  };

  StatementKind kind;
  int line;
  std::string text;
  ExpressionPtr target, value, condition;
  Block body, otherwise;
  std::vector<Case> cases;
  std::vector<Parameter> parameters;
  bool takes_varargs = false, takes_kwargs = false;  // a macro that mentions them
};

}  // namespace tenfold::jinja
