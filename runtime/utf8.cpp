#include "runtime/utf8.h"

#include <algorithm>

namespace tenfold {
namespace {

struct Lead {
  std::size_t length;               // 0: no character starts with this byte
  unsigned second_min, second_max;  // range of the second byte; the others are 80..BF
};

Lead classify(unsigned byte) noexcept {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte < 0xF0) return {3, byte == 0xE0 ? 0xA0u : 0x80u, byte == 0xED ? 0x9Fu : 0xBFu};
  if (byte < 0xF5) return {4, byte == 0xF0 ? 0x90u : 0x80u, byte == 0xF4 ? 0x8Fu : 0xBFu};
  return {0, 0, 0};
}

}  // namespace

Utf8Char decode_utf8(std::string_view text, std::size_t at) noexcept {
  const unsigned first = static_cast<unsigned char>(text[at]);
  const Lead lead = classify(first);
  if (lead.length == 1) return {first, 1, true, false};
  if (lead.length == 0) return {kReplacementChar, 1, false, false};
  char32_t code = first & (0xFFu >> (lead.length + 1));
  for (std::size_t i = 1; i < lead.length; ++i) {
    if (at + i == text.size()) return {kReplacementChar, i, false, true};
    const unsigned byte = static_cast<unsigned char>(text[at + i]);
    const unsigned low = i == 1 ? lead.second_min : 0x80u;
    const unsigned high = i == 1 ? lead.second_max : 0xBFu;
    if (byte < low || byte > high) return {kReplacementChar, i, false, false};
    code = code << 6 | (byte & 0x3Fu);
  }
  return {code, lead.length, true, false};
}

void append_utf8(std::string& text, char32_t code) {
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) code = kReplacementChar;
  const auto put = [&text](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

std::size_t first_invalid_utf8(std::string_view text) noexcept {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    if (!c.valid) return at;
    at += c.length;
  }
  return std::string_view::npos;
}

bool is_valid_utf8(std::string_view text) noexcept {
  return first_invalid_utf8(text) == std::string_view::npos;
}

std::size_t complete_utf8_prefix(std::string_view text) noexcept {
  // A truncated character is at most three bytes, and its lead byte cannot be inside another one.
  const std::size_t reach = std::min<std::size_t>(text.size(), 3);
  for (std::size_t back = 1; back <= reach; ++back) {
    const std::size_t at = text.size() - back;
    const Utf8Char c = decode_utf8(text, at);
    if (c.truncated && c.length == back) return at;
  }
  return text.size();
}

std::string sanitize_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Char c = decode_utf8(text, at);
    if (c.valid) {
      result.append(text.substr(at, c.length));
    } else {
      append_utf8(result, kReplacementChar);
    }
    at += c.length;
  }
  return result;
}

}  // namespace tenfold
