#pragma once
// Filters, tests, methods and global functions by name.

#include <array>
#include <initializer_list>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/jinja/value.h"

namespace tenfold::jinja {

struct Builtin {
  std::string_view name;
  Native native;
};

// nullptr for a name that does not exist.
Native find_builtin(std::span<const Builtin> table, std::string_view name);
Native find_filter(std::string_view name);
Native find_test(std::string_view name);
Native find_method(const Value& object, std::string_view name);
Native find_global(std::string_view name);

// The tables behind find_filter.
std::span<const Builtin> text_filters();
std::span<const Builtin> number_filters();
std::span<const Builtin> list_filters();

// Arguments matched to parameter names as Python does; fails on unknown, repeated, missing or
// surplus ones.
class Parameters {
 public:
  Parameters(std::string_view function, const Args& args,
             std::initializer_list<std::string_view> names, std::size_t required = 0);
  bool has(std::size_t i) const { return values_[i] != nullptr; }
  const Value& get(std::size_t i) const { return *values_[i]; }
  Value get_or(std::size_t i, const Value& fallback) const { return has(i) ? get(i) : fallback; }
  bool flag(std::size_t i, bool fallback = false) const;
  std::int64_t integer(std::size_t i, std::int64_t fallback) const;  // none counts as absent
  std::string_view text(std::size_t i) const;
  std::optional<std::string_view> optional_text(std::size_t i) const;  // absent or none

 private:
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

}  // namespace tenfold::jinja
