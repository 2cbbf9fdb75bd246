#pragma once
// Operators, iteration and lookup on values, after Python and Jinja2.

#include "runtime/jinja/ast.h"

namespace tenfold::jinja {

Value apply_binary(Heap& heap, Op op, const Value& a, const Value& b);  // + - * / // % **
Value apply_unary(Op op, const Value& value);                           // - + not
bool compare(Heap& heap, Op op, const Value& a, const Value& b);        // == < in ...
bool contains(Heap& heap, const Value& container, const Value& item);

// What a for loop goes through: items, keys or characters. Undefined has none; fails for others.
const List& items_of(Heap& heap, const Value& value);
std::size_t size_of(Heap& heap, const Value& value);  // len()

// What is missing gives Undefined; looking into Undefined fails.
Value attribute(Heap& heap, const Value& object, std::string_view name);  // object.name
Value item(Heap& heap, const Value& object, const Value& key);            // object[key]
// Absent bounds are none.
Value slice(Heap& heap, const Value& object, const Value& begin, const Value& end,
            const Value& step);

// "%s has %d" % args
std::string_view percent_format(Heap& heap, std::string_view format, const List& args);
// "{} {0} {name}".format(...), without format specifications
std::string_view brace_format(Heap& heap, std::string_view format, const Args& args);

}  // namespace tenfold::jinja
