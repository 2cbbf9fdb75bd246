#pragma once
// Values of the template language, which follow Python's. A Value is small and copied freely:
// strings and containers are references into a Heap, the parsed template or the caller's JSON, all
// of which outlive the rendering. Nothing is freed before the rendering ends, so values may refer
// to each other in cycles, and a Heap's limits bound time, memory and recursion of a rendering.

#include <fmt/core.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

namespace tenfold::jinja {

class Heap;
class Interpreter;
class Value;
struct Args;
struct Function;
struct Loop;
struct Scope;
struct Statement;

// What went wrong while rendering; the caller adds the line.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... T>
[[noreturn]] void fail(fmt::format_string<T...> format, T&&... args) {
  throw Failure(fmt::format(format, std::forward<T>(args)...));
}

using List = std::vector<Value>;

struct Undefined {
  std::string_view name;   // what was looked for
  std::string_view owner;  // type of the value that lacks it; empty: a variable
};
struct None {};
struct ListRef {
  const List* items;
};
struct TupleRef {
  const List* items;
};
struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in insertion order, keys distinct
};
struct Namespace {
  Dict variables;
};

template <typename T, typename Variant>
inline constexpr bool kIsAlternative = false;
template <typename T, typename... Types>
inline constexpr bool kIsAlternative<T, std::variant<Types...>> = (std::is_same_v<T, Types> || ...);

class Value {
 public:
  using Data = std::variant<Undefined, None, bool, std::int64_t, double, std::string_view, ListRef,
                            TupleRef, const Dict*, Namespace*, Loop*, const Function*>;

  Value() : data_(None{}) {}
  template <typename T, typename = std::enable_if_t<kIsAlternative<T, Data>>>
  Value(const T& data)  // NOLINT(google-explicit-constructor)
      : data_(std::in_place_type<T>, data) {}

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&data_);
  }
  template <typename T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  bool is_string() const { return is<std::string_view>(); }
  bool is_number() const { return is<bool>() || is<std::int64_t>() || is<double>(); }

  // Items of a list or tuple, else nullptr.
  const List* sequence() const;
  const Dict* dict() const;
  // A bool or an integer.
  const std::int64_t* integer(std::int64_t& storage) const;

 private:
  Data data_;
};

struct Args {
  List positional;
  std::vector<std::pair<std::string_view, Value>> named;
};

using Native = Value (*)(Interpreter&, const Value& self, const Args&);

// A global function, a bound method (self), or a macro with the scope it was defined in.
struct Function {
  std::string_view name;
  Native native = nullptr;
  Value self;
  const Statement* macro = nullptr;
  Scope* scope = nullptr;
};

// The `loop` variable of a for block.
struct Loop {
  const List* items = nullptr;
  std::size_t index = 0;
  const List* changed = nullptr;  // arguments of the last loop.changed() call
};

struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> variables;
};

inline constexpr std::size_t kMaxTextBytes = std::size_t{16} << 20;
inline constexpr std::size_t kMaxHeapBytes = std::size_t{128} << 20;
inline constexpr std::uint64_t kMaxSteps = 10'000'000;
inline constexpr std::uint64_t kMaxLoopSteps = 1'000'000;
inline constexpr int kMaxDepth = 600;

class Heap {
 public:
  Heap() = default;
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // Throw a Failure when a limit is passed. charge() comes before the allocation it accounts for.
  void spend(std::uint64_t steps);
  void spend_loop_step();
  void charge(std::size_t bytes);

  std::string_view text(std::string_view text);  // a copy
  std::string_view keep(std::string text);       // already charged
  void push(List& list, const Value& value);
  Value list(List items);  // the items were pushed through push()
  Value tuple(List items);
  Value dict(Dict dict);
  Namespace* make_namespace();
  Loop* loop(const List& items);
  const Function* function(Function function);
  Scope* scope(Scope* parent);

  // Counts nested evaluation and comparison.
  class Depth {
   public:
    explicit Depth(Heap& heap);
    ~Depth() { --heap_.depth_; }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Heap& heap_;
  };

 private:
  std::uint64_t steps_ = 0, loop_steps_ = 0;
  std::size_t bytes_ = 0;
  int depth_ = 0;
  std::deque<std::string> strings_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Namespace> namespaces_;
  std::deque<Loop> loops_;
  std::deque<Function> functions_;
  std::deque<Scope> scopes_;
};

// A string under construction, charged as it grows.
class Text {
 public:
  explicit Text(Heap& heap) : heap_(&heap) {}
  Heap& heap() const { return *heap_; }
  void append(std::string_view piece);
  void append(std::size_t count, char c);
  std::string take() { return std::move(text_); }
  std::string_view finish() { return heap_->keep(std::move(text_)); }

 private:
  void grow(std::size_t bytes);
  Heap* heap_;
  std::string text_;
};

bool truthy(const Value& value);
std::string_view type_name(const Value& value);         // "str", "dict", ...
std::string undefined_message(const Undefined& value);  // "'x' is undefined"
bool equal(Heap& heap, const Value& a, const Value& b);
bool less(Heap& heap, const Value& a, const Value& b);  // fails for types without an order
double to_double(const Value& number);

std::string float_repr(double value);
void append_str(Text& out, const Value& value);   // str(value); undefined is ""
void append_repr(Text& out, const Value& value);  // as inside a printed list
std::string_view to_str(Heap& heap, const Value& value);

const Value* find(Heap& heap, const Dict& dict, const Value& key);
void assign(Heap& heap, Dict& dict, const Value& key, const Value& value);

}  // namespace tenfold::jinja
