#pragma once
// Python's string operations on valid UTF-8: lengths and positions count characters. Case mapping
// covers ASCII, Latin, Greek and Cyrillic; other letters stay as they are.

#include <cstdint>
#include <optional>
#include <string_view>

#include "runtime/jinja/value.h"

namespace tenfold::jinja {

bool is_space(char32_t code);  // as str.isspace()
char32_t to_upper(char32_t code);
char32_t to_lower(char32_t code);
bool is_letter(char32_t code);

std::size_t length(std::string_view text);
// Byte offset of character `index`, text.size() when index >= length(text).
std::size_t offset_of(std::string_view text, std::size_t index);
List characters(Heap& heap, std::string_view text);

enum class Side { left, right, both };
std::string_view strip(std::string_view text, std::optional<std::string_view> characters,
                       Side side);
// The same for template code: charged, and the set of characters must be small.
std::string_view strip(Heap& heap, std::string_view text,
                       std::optional<std::string_view> characters, Side side);

// Byte offset of the first match at or after `from`; npos if none. Linear time.
std::size_t find_text(std::string_view text, std::string_view needle, std::size_t from = 0);
std::string_view replace(Heap& heap, std::string_view text, std::string_view from,
                         std::string_view to, std::int64_t max_count);
// Without a separator: on runs of white space. max_count < 0: no limit.
List split(Heap& heap, std::string_view text, std::optional<std::string_view> separator,
           std::int64_t max_count);
List split_from_right(Heap& heap, std::string_view text, std::optional<std::string_view> separator,
                      std::int64_t max_count);
List split_lines(Heap& heap, std::string_view text, bool keep_ends);

enum class Case { upper, lower, capitalize, title };
std::string_view change_case(Heap& heap, std::string_view text, Case how);

void append_quoted(Text& out, std::string_view text);   // repr() of a string
void append_escaped(Text& out, std::string_view text);  // HTML, as markupsafe

}  // namespace tenfold::jinja
