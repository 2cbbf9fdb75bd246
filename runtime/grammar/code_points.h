#pragma once
// Sets of Unicode scalar values, and the UTF-8 byte sequences that spell them.

#include <array>
#include <cstdint>
#include <vector>

namespace tenfold {

// Sorted, disjoint ranges without surrogates. Building and set operations are O(n log n) in the
// number of ranges.
class CodePointSet {
 public:
  struct Range {
    char32_t first, last;
    bool operator==(const Range&) const = default;
    bool operator<(const Range& o) const noexcept {
      return first < o.first || (first == o.first && last < o.last);
    }
  };

  CodePointSet() = default;
  // Any ranges in any order; what is no scalar value (surrogates, above U+10FFFF) is left out.
  explicit CodePointSet(const std::vector<Range>& ranges);
  static CodePointSet all();

  CodePointSet complement() const;
  CodePointSet intersection(const CodePointSet& other) const;
  CodePointSet minus(const CodePointSet& other) const { return intersection(other.complement()); }

  bool contains(char32_t code) const noexcept;
  bool empty() const noexcept { return ranges_.empty(); }
  const std::vector<Range>& ranges() const noexcept { return ranges_; }
  bool operator==(const CodePointSet&) const = default;
  bool operator<(const CodePointSet& o) const noexcept { return ranges_ < o.ranges_; }

 private:
  std::vector<Range> ranges_;
};

struct ByteRange {
  std::uint8_t first, last;
  bool operator<(const ByteRange& o) const noexcept {
    return first < o.first || (first == o.first && last < o.last);
  }
};

// All strings with one byte of each range, in order.
struct Utf8Sequence {
  std::array<ByteRange, 4> bytes;
  std::size_t length;
};

// The encodings of a range without surrogates, each exactly once; at most 13 sequences.
std::vector<Utf8Sequence> utf8_sequences(CodePointSet::Range range);

}  // namespace tenfold
