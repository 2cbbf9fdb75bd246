#pragma once
// Runs a parsed template. Scoping is Jinja2's: for bodies, macros, with and captured blocks open a
// scope, if does not; a macro sees the variables of the scope it was defined in.

#include <string>
#include <string_view>

#include "runtime/jinja/ast.h"

namespace tenfold::jinja {

class Interpreter {
 public:
  // variables: a dict. The heap outlives the interpreter; use both for one rendering only.
  Interpreter(Heap& heap, const Value& variables);
  // Throws Failure, or Error (bad_request) for raise_exception().
  std::string render(const Block& block);

  Heap& heap() const { return heap_; }
  int line() const { return line_; }  // of the last thing evaluated

 private:
  enum class Flow { next, break_loop, continue_loop };
  class InScope;

  Flow run(const Block& block);
  Flow run(const Statement& statement);
  Flow run_branch(const Statement& statement);
  Flow run_loop(const Statement& statement);
  Flow run_assign_block(const Statement& statement);
  Flow run_filter_block(const Statement& statement);
  Flow run_scope(const Statement& statement);
  void run_call_block(const Statement& statement);
  void define_macro(const Statement& statement);
  const List& loop_items(const Statement& statement);
  // Runs the block in a scope of its own, its output collected in `text`.
  Flow capture(const Block& block, std::string_view& text);

  Value lookup(std::string_view name);
  void set(std::string_view name, const Value& value);
  void assign_target(const Expression& target, const Value& value);

  Value eval(const Expression& e);
  Value eval_node(const Expression& e);
  Value eval_or_none(const ExpressionPtr& e);
  Value eval_sequence(const Expression& e);
  Value eval_dict(const Expression& e);
  Value eval_binary(const Expression& e);
  Value eval_concat(const Expression& e);
  Value eval_compare(const Expression& e);
  Value eval_conditional(const Expression& e);
  Value eval_call(const Expression& e);
  Value eval_filter(const Expression& e, const Value* input = nullptr);
  Value eval_test(const Expression& e);
  Args eval_args(const Expression& e);
  Value call(const Value& callee, const Args& args);
  Value call_macro(const Function& function, const Args& args);
  void bind_parameters(const Statement& macro, const Args& args);
  void bind_extra(const Statement& macro, const Args& args);

  Heap& heap_;
  Scope* scope_;
  Text* out_ = nullptr;
  int line_ = 1;
};

}  // namespace tenfold::jinja
