#include "runtime/tokenizer/byte_level.h"

#include <array>

namespace tenfold {
namespace {

struct Alphabet {
  std::array<char[2], 256> symbols = {};
  std::array<std::uint8_t, 256> lengths = {};
  std::array<std::int16_t, 0x144> bytes = {};  // by code point; -1: not in the alphabet
};

constexpr bool stands_for_itself(unsigned byte) noexcept {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

// Bytes that print stand for themselves (as Latin-1); the others are numbered on from U+0100.
constexpr Alphabet make_alphabet() noexcept {
  Alphabet alphabet;
  for (auto& byte : alphabet.bytes) byte = -1;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const unsigned code = stands_for_itself(byte) ? byte : next++;
    alphabet.bytes[code] = static_cast<std::int16_t>(byte);
    if (code < 0x80) {
      alphabet.symbols[byte][0] = static_cast<char>(code);
      alphabet.lengths[byte] = 1;
    } else {
      alphabet.symbols[byte][0] = static_cast<char>(0xC0 | (code >> 6));
      alphabet.symbols[byte][1] = static_cast<char>(0x80 | (code & 0x3F));
      alphabet.lengths[byte] = 2;
    }
  }
  return alphabet;
}

constexpr Alphabet kAlphabet = make_alphabet();

}  // namespace

std::string_view byte_level_symbol(std::uint8_t byte) noexcept {
  return {kAlphabet.symbols[byte], kAlphabet.lengths[byte]};
}

std::string to_byte_level(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) text += byte_level_symbol(static_cast<std::uint8_t>(byte));
  return text;
}

std::optional<std::string> from_byte_level(std::string_view text) {
  std::string bytes;
  bytes.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned code = static_cast<unsigned char>(text[i]);
    if (code >= 0x80) {
      if ((code & 0xE0) != 0xC0 || i + 1 == text.size()) return std::nullopt;
      const unsigned second = static_cast<unsigned char>(text[++i]);
      if ((second & 0xC0) != 0x80) return std::nullopt;
      code = (code & 0x1F) << 6 | (second & 0x3F);
      if (code < 0x80) return std::nullopt;
    }
    if (code >= kAlphabet.bytes.size() || kAlphabet.bytes[code] < 0) return std::nullopt;
    bytes += static_cast<char>(kAlphabet.bytes[code]);
  }
  return bytes;
}

}  // namespace tenfold
