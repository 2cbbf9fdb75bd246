#include "runtime/jinja/text.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "runtime/utf8.h"

namespace tenfold::jinja {

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

char32_t to_upper(char32_t c) {
  if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
  if (c == 0xFF) return 0x178;
  if (c >= 0xE0 && c <= 0xFE && c != 0xF7) return c - 32;
  if ((c >= 0x100 && c <= 0x137 && c != 0x131) || (c >= 0x14A && c <= 0x177)) return c & ~1u;
  if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E)) return c % 2 == 0 ? c - 1 : c;
  if (c == 0x3C2) return 0x3A3;
  if (c >= 0x3B1 && c <= 0x3CB) return c - 32;
  if (c >= 0x430 && c <= 0x44F) return c - 32;
  if (c >= 0x450 && c <= 0x45F) return c - 80;
  return c;
}

char32_t to_lower(char32_t c) {
  if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
  if (c == 0x178) return 0xFF;
  if (c >= 0xC0 && c <= 0xDE && c != 0xD7) return c + 32;
  if ((c >= 0x100 && c <= 0x137 && c != 0x130) || (c >= 0x14A && c <= 0x177)) return c | 1u;
  if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E)) return c % 2 == 1 ? c + 1 : c;
  if (c >= 0x391 && c <= 0x3AB && c != 0x3A2) return c + 32;
  if (c >= 0x410 && c <= 0x42F) return c + 32;
  if (c >= 0x400 && c <= 0x40F) return c + 80;
  return c;
}

bool is_letter(char32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  return c >= 0xC0 && c != 0xD7 && c != 0xF7 && !is_space(c) && !(c >= 0x2000 && c <= 0x2BFF) &&
         !(c >= 0x3001 && c <= 0x3004) && c < 0x1F000;
}

std::size_t length(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::size_t offset_of(std::string_view text, std::size_t index) {
  std::size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += decode_utf8(text, at).length;
  return at;
}

List characters(Heap& heap, std::string_view text) {
  List result;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t bytes = decode_utf8(text, at).length;
    heap.push(result, text.substr(at, bytes));
    at += bytes;
  }
  return result;
}

namespace {

std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool strips(std::string_view character, const std::optional<std::string_view>& set) {
  if (set) return set->find(character) != std::string_view::npos;
  return is_space(decode_utf8(character, 0).code);
}

}  // namespace

std::string_view strip(std::string_view text, std::optional<std::string_view> characters,
                       Side side) {
  while (side != Side::right && !text.empty()) {
    const std::size_t bytes = decode_utf8(text, 0).length;
    if (!strips(text.substr(0, bytes), characters)) break;
    text.remove_prefix(bytes);
  }
  while (side != Side::left && !text.empty()) {
    const std::size_t at = last_character(text);
    if (!strips(text.substr(at), characters)) break;
    text = text.substr(0, at);
  }
  return text;
}

std::string_view strip(Heap& heap, std::string_view text,
                       std::optional<std::string_view> characters, Side side) {
  constexpr std::size_t kMaxSet = 256;
  if (characters && characters->size() > kMaxSet)
    fail("more than {} bytes of characters to strip", kMaxSet);
  const std::string_view stripped = strip(text, characters, side);
  heap.spend(text.size() - stripped.size());
  return stripped;
}

std::size_t find_text(std::string_view text, std::string_view needle, std::size_t from) {
  if (from > text.size()) return std::string_view::npos;
  if (needle.empty()) return from;
  // memmem is linear in glibc; string_view::find is quadratic on hostile text.
  const void* found = memmem(text.data() + from, text.size() - from, needle.data(), needle.size());
  if (!found) return std::string_view::npos;
  return static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
}

std::string_view replace(Heap& heap, std::string_view text, std::string_view from,
                         std::string_view to, std::int64_t max_count) {
  Text out(heap);
  std::size_t at = 0;
  const auto more = [&max_count] { return max_count < 0 || max_count-- > 0; };
  if (from.empty()) {  // between all characters, as Python
    while (at <= text.size() && more()) {
      out.append(to);
      if (at == text.size()) return out.finish();
      const std::size_t bytes = decode_utf8(text, at).length;
      out.append(text.substr(at, bytes));
      at += bytes;
    }
  } else {
    for (std::size_t hit; (hit = find_text(text, from, at)) != std::string_view::npos && more();) {
      heap.spend(1);
      out.append(text.substr(at, hit - at));
      out.append(to);
      at = hit + from.size();
    }
  }
  out.append(text.substr(at));
  return out.finish();
}

List split(Heap& heap, std::string_view text, std::optional<std::string_view> separator,
           std::int64_t max_count) {
  List parts;
  if (separator && separator->empty()) fail("empty separator");
  heap.spend(text.size() / 16);
  while (true) {
    if (!separator) text = strip(text, std::nullopt, Side::left);
    if (!separator && text.empty()) return parts;
    const bool more = max_count < 0 || max_count-- > 0;
    std::size_t hit = std::string_view::npos;
    std::size_t skip = separator ? separator->size() : 0;
    if (more && separator) {
      hit = find_text(text, *separator);
    } else if (more) {
      for (hit = 0; hit < text.size();) {
        const Utf8Char c = decode_utf8(text, hit);
        if (is_space(c.code)) break;
        hit += c.length;
      }
      if (hit == text.size()) hit = std::string_view::npos;
    }
    if (hit == std::string_view::npos) {
      heap.push(parts,
                separator ? text : strip(text, std::nullopt, more ? Side::both : Side::left));
      return parts;
    }
    heap.push(parts, text.substr(0, hit));
    text.remove_prefix(hit + skip);
  }
}

List split_from_right(Heap& heap, std::string_view text, std::optional<std::string_view> separator,
                      std::int64_t max_count) {
  if (max_count < 0) return split(heap, text, separator, max_count);
  if (!separator) fail("rsplit() with a count needs a separator");
  if (separator->empty()) fail("empty separator");
  List parts;
  while (max_count-- > 0) {
    heap.spend(text.size() / 16 * (separator->size() / 16 + 1));
    const std::size_t hit = text.rfind(*separator);
    if (hit == std::string_view::npos) break;
    heap.push(parts, text.substr(hit + separator->size()));
    text = text.substr(0, hit);
  }
  heap.push(parts, text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

List split_lines(Heap& heap, std::string_view text, bool keep_ends) {
  List lines;
  heap.spend(text.size() / 4);
  std::size_t begin = 0;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const bool ends = (c.code >= 0x0A && c.code <= 0x0D) || (c.code >= 0x1C && c.code <= 0x1E) ||
                      c.code == 0x85 || c.code == 0x2028 || c.code == 0x2029;
    const std::size_t end = at;
    at += c.length;
    if (!ends) continue;
    if (c.code == '\r' && at < text.size() && text[at] == '\n') ++at;
    heap.push(lines, text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) heap.push(lines, text.substr(begin));
  return lines;
}

std::string_view change_case(Heap& heap, std::string_view text, Case how) {
  std::string changed;
  bool in_word = false;
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const bool upper = how == Case::upper || (how != Case::lower && !in_word);
    append_utf8(changed, upper ? to_upper(c.code) : to_lower(c.code));
    in_word = how == Case::capitalize || is_letter(c.code);
    at += c.length;
  }
  heap.charge(changed.size());
  heap.spend(text.size() / 4);
  return heap.keep(std::move(changed));
}

void append_quoted(Text& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out.append(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    const auto code = static_cast<std::uint32_t>(c.code);
    if (code == '\\' || code == static_cast<unsigned char>(quote)) {
      out.append(1, '\\');
      out.append(1, static_cast<char>(code));
    } else if (code == '\n' || code == '\r' || code == '\t') {
      out.append(code == '\n' ? "\\n" : code == '\r' ? "\\r" : "\\t");
    } else if (code < 0x20 || (code >= 0x7F && code <= 0xA0) || code == 0xAD) {
      out.append(fmt::format("\\x{:02x}", code));
    } else if (is_space(c.code) && code > 0x20) {
      out.append(fmt::format("\\u{:04x}", code));
    } else {
      out.append(text.substr(at, c.length));
    }
    at += c.length;
  }
  out.append(1, quote);
}

void append_escaped(Text& out, std::string_view text) {
  for (const char& c : text) {
    switch (c) {
      case '&':
        out.append("&amp;");
        break;
      case '<':
        out.append("&lt;");
        break;
      case '>':
        out.append("&gt;");
        break;
      case '"':
        out.append("&#34;");
        break;
      case '\'':
        out.append("&#39;");
        break;
      default:
        out.append(std::string_view(&c, 1));
    }
  }
}

}  // namespace tenfold::jinja
