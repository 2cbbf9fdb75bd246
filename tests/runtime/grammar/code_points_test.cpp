#include "runtime/grammar/code_points.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "runtime/utf8.h"

namespace tenfold {
namespace {

bool is_scalar(char32_t code) { return code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF); }

// How many of the set's sequences spell the bytes.
int n_spellings(const CodePointSet& set, const std::string& bytes) {
  int n = 0;
  for (const CodePointSet::Range& range : set.ranges()) {
    for (const Utf8Sequence& sequence : utf8_sequences(range)) {
      bool same = sequence.length == bytes.size();
      for (std::size_t i = 0; same && i < bytes.size(); ++i) {
        const auto byte = static_cast<std::uint8_t>(bytes[i]);
        same = byte >= sequence.bytes[i].first && byte <= sequence.bytes[i].last;
      }
      n += same ? 1 : 0;
    }
  }
  return n;
}

TEST(CodePoints, NormalizeAndLeaveOutSurrogates) {
  const CodePointSet set(
      {{'b', 'd'}, {'a', 'a'}, {'c', 'f'}, {0xD000, 0xE000}, {0x200000, 0x300000}});
  const std::vector<CodePointSet::Range> expected = {
      {'a', 'f'}, {0xD000, 0xD7FF}, {0xE000, 0xE000}};
  EXPECT_EQ(set.ranges(), expected);
  EXPECT_TRUE(CodePointSet({{0xD800, 0xDFFF}}).empty());
  EXPECT_TRUE(CodePointSet::all().complement().empty());
  EXPECT_EQ(CodePointSet().complement(), CodePointSet::all());
}

TEST(CodePoints, OperationsFollowMembership) {
  std::mt19937 rng(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<CodePointSet::Range> ranges[2];
    for (auto& list : ranges) {
      for (int i = 0; i < 5; ++i) {
        const auto first = static_cast<char32_t>(0xD7C0 + rng() % 0x900);
        list.push_back({first, first + static_cast<char32_t>(rng() % 64)});
      }
    }
    const CodePointSet a(ranges[0]), b(ranges[1]);
    const CodePointSet both = a.intersection(b), without = a.minus(b), other = a.complement();
    for (char32_t code = 0xD780; code < 0xE180; ++code) {
      ASSERT_EQ(both.contains(code), a.contains(code) && b.contains(code));
      ASSERT_EQ(without.contains(code), a.contains(code) && !b.contains(code));
      ASSERT_EQ(other.contains(code), is_scalar(code) && !a.contains(code));
    }
  }
}

// Every character, for ranges around each change of form.
TEST(CodePoints, SequencesSpellExactlyTheRange) {
  const std::vector<CodePointSet::Range> ranges = {
      {0, 0x10FFFF},    {0x70, 0x90},   {0x7F0, 0x810},    {0xFFF0, 0x10010},
      {0xD000, 0xE0FF}, {0x3F, 0x1041}, {0xFFFF, 0x40000}, {0x10FFFE, 0x10FFFF}};
  for (const CodePointSet::Range& range : ranges) {
    const CodePointSet set({range});
    const bool whole = range.last - range.first > 0x50000;
    for (char32_t code = 0; code <= 0x10FFFF; code += whole ? 7 : 1) {
      if (!is_scalar(code)) continue;
      const bool near = code + 300 >= range.first && code <= range.last + 300;
      if (!near && code % 101 != 0) continue;
      std::string bytes;
      append_utf8(bytes, code);
      ASSERT_EQ(n_spellings(set, bytes), set.contains(code) ? 1 : 0) << static_cast<unsigned>(code);
    }
  }
}

TEST(CodePoints, SequencesSpellNothingElse) {
  const CodePointSet all = CodePointSet::all();
  std::size_t n = 0;
  for (const CodePointSet::Range& range : all.ranges()) {
    for (const Utf8Sequence& sequence : utf8_sequences(range)) {
      std::size_t product = 1;
      for (std::size_t i = 0; i < sequence.length; ++i) {
        product *= static_cast<std::size_t>(sequence.bytes[i].last - sequence.bytes[i].first) + 1;
      }
      n += product;
    }
  }
  EXPECT_EQ(n, 0x110000u - 0x800u);
}

}  // namespace
}  // namespace tenfold
