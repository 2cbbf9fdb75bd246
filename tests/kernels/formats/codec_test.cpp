// Packing and unpacking of every format, and that each byte is where FORMAT.md says.

#include "kernels/formats/codec.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "kernels/formats/plane.h"

namespace tenfold {
namespace {

const std::vector<Format> kPacked = {
#define PACKED_FORMAT(id, name, Type) Format::name,
#include "kernels/formats/formats.def"
};

std::vector<std::uint8_t> random_codes(std::size_t n, int bits, std::uint32_t seed) {
  std::mt19937 rng(seed);
  std::vector<std::uint8_t> codes(n);
  for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(rng() & ((1u << bits) - 1));
  return codes;
}

TEST(Codec, PanelsRoundTripAtOddShapes) {
  for (const Format format : kPacked) {
    const int bits = format_traits(format).bits;
    for (const int rows : {1, 3, 15, 16}) {
      for (const std::int64_t cols : {1, 4, 5, 16, 31, 32, 33, 64, 100, 576}) {
        SCOPED_TRACE(::testing::Message()
                     << format_traits(format).name << ' ' << rows << " x " << cols);
        const auto codes = random_codes(static_cast<std::size_t>(rows * cols), bits, 7);
        const PackedLayout layout = packed_layout(format, MinKind::midrise, rows, cols, cols);
        std::vector<std::byte> panel(static_cast<std::size_t>(layout.panel_code_bytes) + 1,
                                     std::byte{0xa5});
        pack_panel(format, codes.data(), rows, cols, panel.data());
        EXPECT_EQ(panel.back(), std::byte{0xa5}) << "written past the end";
        std::vector<std::uint8_t> row(static_cast<std::size_t>(cols));
        for (int r = 0; r < kPanelRows; ++r) {
          unpack_panel_row(format, panel.data(), r, cols, row.data());
          for (std::int64_t c = 0; c < cols; ++c) {
            const int expected = r < rows ? codes[static_cast<std::size_t>(r * cols + c)] : 0;
            ASSERT_EQ(row[static_cast<std::size_t>(c)], expected) << r << ", " << c;
          }
        }
      }
    }
  }
}

TEST(Codec, ZeroPointsRoundTrip) {
  for (const Format format : kPacked) {
    const int bits = format_traits(format).bits;
    const auto zeros = random_codes(16, bits, 3);
    std::vector<std::byte> packed(static_cast<std::size_t>(2 * bits) + 1, std::byte{0x5a});
    pack_zeros(format, zeros.data(), packed.data());
    EXPECT_EQ(packed.back(), std::byte{0x5a});
    for (int r = 0; r < kPanelRows; ++r) {
      EXPECT_EQ(unpack_zero(format, packed.data(), r), zeros[static_cast<std::size_t>(r)]);
    }
  }
}

// Where one code lands, from FORMAT.md's words alone.
TEST(Codec, BytesAreWhereTheFormatSaysTheyAre) {
  constexpr std::int64_t kCols = 64;
  const auto lone_code = [](Format format, int row, std::int64_t col, std::uint8_t code) {
    std::vector<std::uint8_t> codes(kPanelRows * kCols);
    codes[static_cast<std::size_t>(row * kCols + col)] = code;
    const PackedLayout layout = packed_layout(format, MinKind::midrise, kPanelRows, kCols, kCols);
    std::vector<std::byte> panel(static_cast<std::size_t>(layout.panel_code_bytes));
    pack_panel(format, codes.data(), kPanelRows, kCols, panel.data());
    return panel;
  };
  // q2, row 5, column 16 + 4 * 3 + 2: line 1, dword 5, byte 2, field 3.
  EXPECT_EQ(lone_code(Format::q2, 5, 30, 2)[64 + 5 * 4 + 2], std::byte{2 << 6});
  // q4, row 15, column 8 * 3 + 4 + 1: line 3, byte 1, high field.
  EXPECT_EQ(lone_code(Format::q4, 15, 29, 9)[3 * 64 + 15 * 4 + 1], std::byte{9 << 4});
  // q1, row 0, column 32 + 4 * 7 + 3: line 1, byte 3, bit 7.
  EXPECT_EQ(lone_code(Format::q1, 0, 63, 1)[64 + 3], std::byte{0x80});
  // q8, row 2, column 4 * 9: line 9.
  EXPECT_EQ(lone_code(Format::q8, 2, 36, 200)[9 * 64 + 2 * 4], std::byte{200});
  // q3, row 1, column 32 + 17, code 6 = low 2 + 4 * high 1: the second block's second 2-bit line,
  // and its 1-bit line.
  const auto q3 = lone_code(Format::q3, 1, 49, 6);
  EXPECT_EQ(q3[3 * 64 + 64 + 1 * 4 + 1], std::byte{2});
  EXPECT_EQ(q3[3 * 64 + 128 + 1 * 4 + 1], std::byte{1 << 4});
}

}  // namespace
}  // namespace tenfold
