#include "runtime/grammar/code_points.h"

#include <algorithm>
#include <string>

#include "runtime/utf8.h"

namespace tenfold {
namespace {

constexpr char32_t kLast = 0x10FFFF, kSurrogates = 0xD800, kAfterSurrogates = 0xE000;

// Appends the part of `range` from `low` to `high`, if there is one.
void append_part(CodePointSet::Range range, char32_t low, char32_t high,
                 std::vector<CodePointSet::Range>& out) {
  const char32_t first = std::max(range.first, low), last = std::min(range.last, high);
  if (first <= last) out.push_back({first, last});
}

// first and last have encodings of the same length that differ in one run of trailing bytes, which
// takes all its values: the bytes' ranges are those from one to the other.
Utf8Sequence aligned_sequence(char32_t first, char32_t last) {
  std::string low, high;
  append_utf8(low, first);
  append_utf8(high, last);
  Utf8Sequence sequence{{}, low.size()};
  for (std::size_t i = 0; i < low.size(); ++i) {
    sequence.bytes[i] = {static_cast<std::uint8_t>(low[i]), static_cast<std::uint8_t>(high[i])};
  }
  return sequence;
}

void split(char32_t first, char32_t last, std::vector<Utf8Sequence>& out) {
  for (const char32_t longest : {0x7Fu, 0x7FFu, 0xFFFFu}) {
    if (first > longest || last <= longest) continue;
    split(first, longest, out);
    return split(longest + 1, last, out);
  }
  for (unsigned bits = 6; last > 0x7F && bits <= 18; bits += 6) {
    const char32_t low = (char32_t{1} << bits) - 1;
    if ((first & ~low) == (last & ~low)) continue;
    if ((first & low) != 0) {
      split(first, first | low, out);
      return split((first | low) + 1, last, out);
    }
    if ((last & low) != low) {
      split(first, (last & ~low) - 1, out);
      return split(last & ~low, last, out);
    }
  }
  out.push_back(aligned_sequence(first, last));
}

}  // namespace

CodePointSet::CodePointSet(const std::vector<Range>& ranges) {
  std::vector<Range> scalar;
  scalar.reserve(ranges.size());
  for (const Range& range : ranges) {
    append_part(range, 0, kSurrogates - 1, scalar);
    append_part(range, kAfterSurrogates, kLast, scalar);
  }
  std::sort(scalar.begin(), scalar.end());
  for (const Range& range : scalar) {
    if (!ranges_.empty() && range.first <= ranges_.back().last + 1) {
      ranges_.back().last = std::max(ranges_.back().last, range.last);
    } else {
      ranges_.push_back(range);
    }
  }
}

CodePointSet CodePointSet::all() { return CodePointSet({{0, kLast}}); }

CodePointSet CodePointSet::complement() const {
  std::vector<Range> gaps;
  char32_t next = 0;
  for (const Range& range : ranges_) {
    if (range.first > next) gaps.push_back({next, range.first - 1});
    next = range.last + 1;
  }
  if (next <= kLast) gaps.push_back({next, kLast});
  return CodePointSet(gaps);
}

CodePointSet CodePointSet::intersection(const CodePointSet& other) const {
  std::vector<Range> common;
  auto a = ranges_.begin();
  auto b = other.ranges_.begin();
  while (a != ranges_.end() && b != other.ranges_.end()) {
    append_part(*a, b->first, b->last, common);
    if (a->last < b->last) {
      ++a;
    } else {
      ++b;
    }
  }
  return CodePointSet(common);
}

bool CodePointSet::contains(char32_t code) const noexcept {
  const auto after =
      std::upper_bound(ranges_.begin(), ranges_.end(), code,
                       [](char32_t c, const Range& range) { return c < range.first; });
  return after != ranges_.begin() && code <= std::prev(after)->last;
}

std::vector<Utf8Sequence> utf8_sequences(CodePointSet::Range range) {
  std::vector<Utf8Sequence> out;
  split(range.first, range.last, out);
  return out;
}

}  // namespace tenfold
