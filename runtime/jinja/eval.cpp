#include "runtime/jinja/eval.h"

#include <algorithm>

#include "runtime/jinja/builtins.h"
#include "runtime/jinja/ops.h"

namespace tenfold::jinja {

// A fresh scope until the end of the block.
class Interpreter::InScope {
 public:
  InScope(Interpreter& jinja, Scope* parent) : jinja_(jinja), outer_(jinja.scope_) {
    jinja.scope_ = jinja.heap_.scope(parent);
  }
  ~InScope() { jinja_.scope_ = outer_; }
  InScope(const InScope&) = delete;
  InScope& operator=(const InScope&) = delete;

 private:
  Interpreter& jinja_;
  Scope* outer_;
};

Interpreter::Interpreter(Heap& heap, const Value& variables)
    : heap_(heap), scope_(heap.scope(nullptr)) {
  for (const auto& [name, value] : variables.dict()->entries)
    set(*name.as<std::string_view>(), value);
  scope_ = heap.scope(scope_);
}

std::string Interpreter::render(const Block& block) {
  Text out(heap_);
  out_ = &out;
  run(block);
  out_ = nullptr;
  return out.take();
}

Interpreter::Flow Interpreter::run(const Block& block) {
  const Heap::Depth depth(heap_);
  for (const auto& statement : block) {
    const Flow flow = run(*statement);
    if (flow != Flow::next) return flow;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run(const Statement& statement) {
  heap_.spend(1);
  line_ = statement.line;
  switch (statement.kind) {
    case StatementKind::text:
      out_->append(statement.text);
      break;
    case StatementKind::output:
      append_str(*out_, eval(*statement.value));
      break;
    case StatementKind::branch:
      return run_branch(statement);
    case StatementKind::loop:
      return run_loop(statement);
    case StatementKind::assign:
      assign_target(*statement.target, eval(*statement.value));
      break;
    case StatementKind::assign_block:
      return run_assign_block(statement);
    case StatementKind::macro:
      define_macro(statement);
      break;
    case StatementKind::call_block:
      run_call_block(statement);
      break;
    case StatementKind::filter_block:
      return run_filter_block(statement);
    case StatementKind::scope:
      return run_scope(statement);
    case StatementKind::break_loop:
      return Flow::break_loop;
    case StatementKind::continue_loop:
      return Flow::continue_loop;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::run_branch(const Statement& statement) {
  for (const auto& branch : statement.cases)
    if (!branch.condition || truthy(eval(*branch.condition))) return run(branch.body);
  return Flow::next;
}

const List& Interpreter::loop_items(const Statement& statement) {
  const List& all = items_of(heap_, eval(*statement.value));
  if (!statement.condition) return all;
  List kept;
  for (const Value& value : all) {
    heap_.spend_loop_step();
    const InScope scope(*this, scope_);
    assign_target(*statement.target, value);
    if (truthy(eval(*statement.condition))) heap_.push(kept, value);
  }
  return *heap_.list(std::move(kept)).sequence();
}

Interpreter::Flow Interpreter::run_loop(const Statement& statement) {
  const List& items = loop_items(statement);
  Loop* loop = heap_.loop(items);
  for (; loop->index < items.size(); ++loop->index) {
    heap_.spend_loop_step();
    const InScope scope(*this, scope_);
    line_ = statement.line;
    set("loop", loop);
    assign_target(*statement.target, items[loop->index]);
    if (run(statement.body) == Flow::break_loop) break;
  }
  if (!items.empty() || statement.otherwise.empty()) return Flow::next;
  const InScope scope(*this, scope_);
  return run(statement.otherwise);
}

Interpreter::Flow Interpreter::capture(const Block& block, std::string_view& text) {
  const InScope scope(*this, scope_);
  Text captured(heap_);
  Text* outer = std::exchange(out_, &captured);
  const Flow flow = run(block);
  out_ = outer;
  text = captured.finish();
  return flow;
}

Interpreter::Flow Interpreter::run_assign_block(const Statement& statement) {
  std::string_view text;
  const Flow flow = capture(statement.body, text);
  if (flow != Flow::next) return flow;
  Value value = text;
  if (statement.value) value = eval_filter(*statement.value, &value);
  assign_target(*statement.target, value);
  return flow;
}

Interpreter::Flow Interpreter::run_filter_block(const Statement& statement) {
  std::string_view text;
  const Flow flow = capture(statement.body, text);
  if (flow != Flow::next) return flow;
  const Value input = text;
  append_str(*out_, eval_filter(*statement.value, &input));
  return flow;
}

Interpreter::Flow Interpreter::run_scope(const Statement& statement) {
  List values;  // all of them come from outside the scope
  for (const auto& parameter : statement.parameters) heap_.push(values, eval(*parameter.value));
  const InScope scope(*this, scope_);
  for (std::size_t i = 0; i < values.size(); ++i) set(statement.parameters[i].name, values[i]);
  return run(statement.body);
}

void Interpreter::run_call_block(const Statement& statement) {
  const Expression& call_expression = *statement.value;
  const Value callee = eval(*call_expression.args[0]);
  Args args = eval_args(call_expression);
  args.named.emplace_back("caller",
                          heap_.function({"caller", nullptr, None{}, &statement, scope_}));
  append_str(*out_, call(callee, args));
}

void Interpreter::define_macro(const Statement& statement) {
  set(statement.text, heap_.function({statement.text, nullptr, None{}, &statement, scope_}));
}

Value Interpreter::lookup(std::string_view name) {
  for (const Scope* scope = scope_; scope; scope = scope->parent) {
    heap_.spend(scope->variables.size() / 16);
    for (const auto& [key, value] : scope->variables)
      if (key == name) return value;
  }
  const Native native = find_global(name);
  if (!native) return Undefined{name, {}};
  return heap_.function({name, native, None{}, nullptr, nullptr});
}

void Interpreter::set(std::string_view name, const Value& value) {
  heap_.spend(scope_->variables.size() / 16);
  for (auto& [key, old] : scope_->variables) {
    if (key != name) continue;
    old = value;
    return;
  }
  heap_.charge(sizeof(std::string_view) + sizeof(Value));
  scope_->variables.emplace_back(name, value);
}

void Interpreter::assign_target(const Expression& target, const Value& value) {
  if (target.kind == ExpressionKind::name) return set(target.text, value);
  if (target.kind == ExpressionKind::attribute) {
    const Value object = lookup(target.args[0]->text);
    const auto* space = object.as<Namespace*>();
    if (!space) fail("'{}' is no namespace, so its attributes cannot be set", target.args[0]->text);
    return assign(heap_, (*space)->variables, std::string_view(target.text), value);
  }
  const List& items = items_of(heap_, value);
  if (items.size() != target.args.size())
    fail("{} values cannot be unpacked into {} names", items.size(), target.args.size());
  for (std::size_t i = 0; i < items.size(); ++i) assign_target(*target.args[i], items[i]);
}

Value Interpreter::eval(const Expression& e) {
  const Heap::Depth depth(heap_);
  heap_.spend(1);
  line_ = e.line;
  return eval_node(e);
}

Value Interpreter::eval_or_none(const ExpressionPtr& e) { return e ? eval(*e) : None{}; }

Value Interpreter::eval_node(const Expression& e) {
  switch (e.kind) {
    case ExpressionKind::literal:
      return e.value;
    case ExpressionKind::name:
      return lookup(e.text);
    case ExpressionKind::tuple:
    case ExpressionKind::list:
      return eval_sequence(e);
    case ExpressionKind::dict:
      return eval_dict(e);
    case ExpressionKind::attribute:
      return attribute(heap_, eval(*e.args[0]), e.text);
    case ExpressionKind::item: {
      const Value object = eval(*e.args[0]);
      return item(heap_, object, eval(*e.args[1]));
    }
    case ExpressionKind::slice: {
      const Value object = eval(*e.args[0]);
      const Value begin = eval_or_none(e.args[1]), end = eval_or_none(e.args[2]);
      return slice(heap_, object, begin, end, eval_or_none(e.args[3]));
    }
    case ExpressionKind::call:
      return eval_call(e);
    case ExpressionKind::filter:
      return eval_filter(e);
    case ExpressionKind::test:
      return eval_test(e);
    case ExpressionKind::unary:
      return apply_unary(e.ops[0], eval(*e.args[0]));
    case ExpressionKind::binary:
      return eval_binary(e);
    case ExpressionKind::concat:
      return eval_concat(e);
    case ExpressionKind::compare:
      return eval_compare(e);
    case ExpressionKind::conditional:
      return eval_conditional(e);
  }
  return None{};
}

Value Interpreter::eval_sequence(const Expression& e) {
  List items;
  for (const auto& arg : e.args) heap_.push(items, eval(*arg));
  return e.kind == ExpressionKind::list ? heap_.list(std::move(items))
                                        : heap_.tuple(std::move(items));
}

Value Interpreter::eval_dict(const Expression& e) {
  Dict dict;
  for (std::size_t i = 0; i < e.args.size(); i += 2) {
    const Value key = eval(*e.args[i]);
    assign(heap_, dict, key, eval(*e.args[i + 1]));
  }
  return heap_.dict(std::move(dict));
}

Value Interpreter::eval_binary(const Expression& e) {
  const Value left = eval(*e.args[0]);
  if (e.ops[0] == Op::logic_and) return truthy(left) ? eval(*e.args[1]) : left;
  if (e.ops[0] == Op::logic_or) return truthy(left) ? left : eval(*e.args[1]);
  return apply_binary(heap_, e.ops[0], left, eval(*e.args[1]));
}

Value Interpreter::eval_concat(const Expression& e) {
  Text text(heap_);
  for (const auto& arg : e.args) append_str(text, eval(*arg));
  return text.finish();
}

Value Interpreter::eval_compare(const Expression& e) {
  Value left = eval(*e.args[0]);
  for (std::size_t i = 0; i < e.ops.size(); ++i) {
    const Value right = eval(*e.args[i + 1]);
    if (!compare(heap_, e.ops[i], left, right)) return false;
    left = right;
  }
  return true;
}

Value Interpreter::eval_conditional(const Expression& e) {
  if (truthy(eval(*e.args[1]))) return eval(*e.args[0]);
  if (e.args[2]) return eval(*e.args[2]);
  return Undefined{"the value of an 'if' without 'else'", {}};
}

Args Interpreter::eval_args(const Expression& e) {
  Args args;
  for (std::size_t i = 1; i < e.args.size(); ++i) heap_.push(args.positional, eval(*e.args[i]));
  for (const auto& [name, value] : e.named) args.named.emplace_back(name, eval(*value));
  return args;
}

Value Interpreter::eval_call(const Expression& e) {
  const Value callee = eval(*e.args[0]);
  const Args args = eval_args(e);
  line_ = e.line;
  return call(callee, args);
}

Value Interpreter::eval_filter(const Expression& e, const Value* input) {
  // In a filter block the chain ends in the captured text instead of an expression.
  const Value value = !e.args[0] ? *input
                      : input    ? eval_filter(*e.args[0], input)
                                 : eval(*e.args[0]);
  const Args args = eval_args(e);
  line_ = e.line;
  const Native native = find_filter(e.text);
  if (!native) fail("there is no filter '{}'", e.text);
  return native(*this, value, args);
}

Value Interpreter::eval_test(const Expression& e) {
  const Native native = find_test(e.text);
  if (!native) fail("there is no test '{}'", e.text);
  const Value value = eval(*e.args[0]);
  return native(*this, value, eval_args(e));
}

Value Interpreter::call(const Value& callee, const Args& args) {
  if (const auto* u = callee.as<Undefined>()) throw Failure(undefined_message(*u));
  const auto* function = callee.as<const Function*>();
  if (!function) fail("'{}' cannot be called", type_name(callee));
  if ((*function)->native) return (*function)->native(*this, (*function)->self, args);
  return call_macro(**function, args);
}

Value Interpreter::call_macro(const Function& function, const Args& args) {
  const Heap::Depth depth(heap_);
  const InScope scope(*this, function.scope);
  bind_parameters(*function.macro, args);
  std::string_view text;
  capture(function.macro->body, text);
  return text;
}

void Interpreter::bind_parameters(const Statement& macro, const Args& args) {
  const auto named = [&args](std::string_view name) -> const Value* {
    for (const auto& [key, value] : args.named)
      if (key == name) return &value;
    return nullptr;
  };
  heap_.spend(macro.parameters.size() * args.named.size() / 8);
  for (std::size_t i = 0; i < macro.parameters.size(); ++i) {
    const auto& parameter = macro.parameters[i];
    const Value* given = named(parameter.name);
    if (i < args.positional.size()) {
      if (given) fail("{}() got '{}' twice", macro.text, parameter.name);
      given = &args.positional[i];
    }
    if (given) {
      set(parameter.name, *given);
    } else if (parameter.value) {
      set(parameter.name, eval(*parameter.value));
    } else {
      set(parameter.name, Undefined{parameter.name, {}});
    }
  }
  bind_extra(macro, args);
}

// What no parameter takes: caller, varargs and kwargs.
void Interpreter::bind_extra(const Statement& macro, const Args& args) {
  List extra;
  for (std::size_t i = macro.parameters.size(); i < args.positional.size(); ++i)
    heap_.push(extra, args.positional[i]);
  if (!extra.empty() && !macro.takes_varargs)
    fail("{}() takes at most {} arguments, found {}", macro.text, macro.parameters.size(),
         args.positional.size());
  Dict rest;
  for (const auto& [name, value] : args.named) {
    const bool known = std::any_of(macro.parameters.begin(), macro.parameters.end(),
                                   [&n = name](const auto& p) { return p.name == n; });
    if (known) continue;
    if (name == "caller") {
      set(name, value);
    } else if (macro.takes_kwargs) {
      assign(heap_, rest, name, value);
    } else {
      fail("{}() has no parameter '{}'", macro.text, name);
    }
  }
  if (macro.takes_varargs) set("varargs", heap_.tuple(std::move(extra)));
  if (macro.takes_kwargs) set("kwargs", heap_.dict(std::move(rest)));
}

}  // namespace tenfold::jinja
