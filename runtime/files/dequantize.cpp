// Block layouts of GGML's quantized types. A nibble byte holds element j in its low and element
// j + half in its high bits; K types are 256 elements with 6- or 4-bit scales per 16 or 32.
// Products and sums are in ggml's order, so results agree with it bit for bit.

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/half.h"
#include "runtime/files/tensor_source.h"

namespace tenfold {
namespace {

using Byte = std::uint8_t;

std::uint16_t load_u16(const Byte* p) noexcept {
  std::uint16_t value = 0;
  std::memcpy(&value, p, sizeof value);
  return value;
}

std::uint32_t load_u32(const Byte* p) noexcept {
  std::uint32_t value = 0;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float load_half(const Byte* p) noexcept { return f16_to_f32(load_u16(p)); }

void f32_block(const Byte* src, float* dst) noexcept { std::memcpy(dst, src, sizeof *dst); }
void f16_block(const Byte* src, float* dst) noexcept { *dst = load_half(src); }
void bf16_block(const Byte* src, float* dst) noexcept { *dst = bf16_to_f32(load_u16(src)); }

// scale f16, 16 nibble bytes
void q4_0_block(const Byte* src, float* dst) noexcept {
  const float scale = load_half(src);
  const Byte* codes = src + 2;
  for (int j = 0; j < 16; ++j) {
    dst[j] = static_cast<float>((codes[j] & 15) - 8) * scale;
    dst[j + 16] = static_cast<float>((codes[j] >> 4) - 8) * scale;
  }
}

// scale f16, min f16, 16 nibble bytes
void q4_1_block(const Byte* src, float* dst) noexcept {
  const float scale = load_half(src);
  const float min = load_half(src + 2);
  const Byte* codes = src + 4;
  for (int j = 0; j < 16; ++j) {
    dst[j] = static_cast<float>(codes[j] & 15) * scale + min;
    dst[j + 16] = static_cast<float>(codes[j] >> 4) * scale + min;
  }
}

// The 5-bit types: bit j of `high` is the fifth bit of element j.
int five_bits(std::uint32_t nibble, std::uint32_t high, int j) noexcept {
  return static_cast<int>(nibble | (high >> j & 1u) << 4);
}

// scale f16, 32 high bits, 16 nibble bytes
void q5_0_block(const Byte* src, float* dst) noexcept {
  const float scale = load_half(src);
  const std::uint32_t high = load_u32(src + 2);
  const Byte* codes = src + 6;
  for (int j = 0; j < 16; ++j) {
    dst[j] = static_cast<float>(five_bits(codes[j] & 15u, high, j) - 16) * scale;
    dst[j + 16] = static_cast<float>(five_bits(codes[j] >> 4u, high, j + 16) - 16) * scale;
  }
}

// scale f16, min f16, 32 high bits, 16 nibble bytes
void q5_1_block(const Byte* src, float* dst) noexcept {
  const float scale = load_half(src);
  const float min = load_half(src + 2);
  const std::uint32_t high = load_u32(src + 4);
  const Byte* codes = src + 8;
  for (int j = 0; j < 16; ++j) {
    dst[j] = static_cast<float>(five_bits(codes[j] & 15u, high, j)) * scale + min;
    dst[j + 16] = static_cast<float>(five_bits(codes[j] >> 4u, high, j + 16)) * scale + min;
  }
}

// scale f16, 32 signed bytes
void q8_0_block(const Byte* src, float* dst) noexcept {
  const float scale = load_half(src);
  for (int j = 0; j < 32; ++j)
    dst[j] = static_cast<float>(static_cast<std::int8_t>(src[2 + j])) * scale;
}

// 16 bytes (scale | min << 4), 64 bytes of 2-bit codes, scale f16, min f16.
// Bits 2p..2p+1 of byte l of each 32-byte half are element 32p + l of that half.
void q2_k_block(const Byte* src, float* dst) noexcept {
  const float scale = load_half(src + 80);
  const float min = load_half(src + 82);
  for (int group = 0; group < 16; ++group) {
    const Byte* codes = src + (16 + group / 8 * 32 + group % 2 * 16);
    const int shift = group % 8 / 2 * 2;
    const float group_scale = scale * static_cast<float>(src[group] & 15);
    const float group_min = min * static_cast<float>(src[group] >> 4);
    for (int l = 0; l < 16; ++l)
      dst[16 * group + l] = group_scale * static_cast<float>(codes[l] >> shift & 3) - group_min;
  }
}

// 6-bit scales of Q3_K: low nibbles in bytes 0..7 (groups 0..7 low, 8..15 high), upper two bits in
// bytes 8..11, four groups to a byte.
int q3_k_scale(const Byte* scales, int group) noexcept {
  const int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
  const int high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
  return low | high << 4;
}

// 32 bytes of high bits, 64 bytes of 2-bit codes as in Q2_K, 12 bytes of scales, scale f16.
// Bit 4 * half + p of high byte l belongs to element 32p + l of that half; a clear bit means -4.
void q3_k_block(const Byte* src, float* dst) noexcept {
  const float scale = load_half(src + 108);
  for (int group = 0; group < 16; ++group) {
    const Byte* high = src + (group % 2 == 0 ? 0 : 16);
    const Byte* codes = src + (32 + group / 8 * 32 + group % 2 * 16);
    const int shift = group % 8 / 2 * 2;
    const int high_shift = group / 2;
    const float group_scale = scale * static_cast<float>(q3_k_scale(src + 96, group) - 32);
    for (int l = 0; l < 16; ++l) {
      const int code = (codes[l] >> shift & 3) + (high[l] >> high_shift & 1) * 4 - 4;
      dst[16 * group + l] = group_scale * static_cast<float>(code);
    }
  }
}

struct ScaleAndMin {
  float scale, min;
};

// Q4_K and Q5_K: 8 six-bit scales and 8 six-bit mins in 12 bytes. Groups 0..3 are the low six bits
// of bytes 0..3 and 4..7; groups 4..7 are nibbles of bytes 8..11 and the spare bits of the others.
ScaleAndMin k4_scale(const Byte* src, int group) noexcept {
  const Byte* packed = src + 4;
  int scale = packed[group % 4] & 63;
  int min = packed[group % 4 + 4] & 63;
  if (group >= 4) {
    scale = (packed[group + 4] & 15) | packed[group - 4] >> 6 << 4;
    min = packed[group + 4] >> 4 | packed[group] >> 6 << 4;
  }
  return {load_half(src) * static_cast<float>(scale), load_half(src + 2) * static_cast<float>(min)};
}

// scale f16, min f16, 12 bytes of scales, 128 nibble bytes (64 elements to 32 bytes)
void q4_k_block(const Byte* src, float* dst) noexcept {
  for (int group = 0; group < 8; ++group) {
    const auto [scale, min] = k4_scale(src, group);
    const Byte* codes = src + (16 + group / 2 * 32);
    const int shift = group % 2 * 4;
    for (int l = 0; l < 32; ++l)
      dst[32 * group + l] = scale * static_cast<float>(codes[l] >> shift & 15) - min;
  }
}

// as Q4_K, with 32 bytes of high bits before the nibbles: bit g of byte l is element 32g + l
void q5_k_block(const Byte* src, float* dst) noexcept {
  const Byte* high = src + 16;
  for (int group = 0; group < 8; ++group) {
    const auto [scale, min] = k4_scale(src, group);
    const Byte* codes = src + (48 + group / 2 * 32);
    const int shift = group % 2 * 4;
    for (int l = 0; l < 32; ++l) {
      const int code = (codes[l] >> shift & 15) + (high[l] >> group & 1) * 16;
      dst[32 * group + l] = scale * static_cast<float>(code) - min;
    }
  }
}

// 128 nibble bytes, 64 bytes of upper two bits, 16 signed scales, scale f16. Each half of 128
// elements: quarter p takes nibble p / 2 of byte 32 * (p % 2) + l and bits 2p..2p+1 of high byte l.
void q6_k_block(const Byte* src, float* dst) noexcept {
  const float scale = load_half(src + 208);
  for (int group = 0; group < 16; ++group) {
    const int half = group / 8;
    const int quarter = group % 8 / 2;
    const int first = group % 2 * 16;
    const Byte* low = src + (half * 64 + quarter % 2 * 32 + first);
    const Byte* high = src + (128 + half * 32 + first);
    const int low_shift = quarter / 2 * 4;
    const int high_shift = quarter * 2;
    const float group_scale =
        scale * static_cast<float>(static_cast<std::int8_t>(src[192 + group]));
    for (int l = 0; l < 16; ++l) {
      const int code = (low[l] >> low_shift & 15) + (high[l] >> high_shift & 3) * 16 - 32;
      dst[16 * group + l] = group_scale * static_cast<float>(code);
    }
  }
}

template <auto block_function>
void all_blocks(DType dtype, std::span<const std::byte> src, std::span<float> dst) noexcept {
  const DTypeTraits traits = dtype_traits(dtype);
  const std::size_t n_blocks = std::min(src.size() / traits.bytes, dst.size() / traits.block);
  const auto* from = reinterpret_cast<const Byte*>(src.data());
  for (std::size_t i = 0; i < n_blocks; ++i)
    block_function(from + i * traits.bytes, dst.data() + i * traits.block);
}

}  // namespace

void dequantize(DType dtype, std::span<const std::byte> src, std::span<float> dst) noexcept {
  switch (dtype) {
    case DType::f32:
      return all_blocks<f32_block>(dtype, src, dst);
    case DType::f16:
      return all_blocks<f16_block>(dtype, src, dst);
    case DType::bf16:
      return all_blocks<bf16_block>(dtype, src, dst);
    case DType::q4_0:
      return all_blocks<q4_0_block>(dtype, src, dst);
    case DType::q4_1:
      return all_blocks<q4_1_block>(dtype, src, dst);
    case DType::q5_0:
      return all_blocks<q5_0_block>(dtype, src, dst);
    case DType::q5_1:
      return all_blocks<q5_1_block>(dtype, src, dst);
    case DType::q8_0:
      return all_blocks<q8_0_block>(dtype, src, dst);
    case DType::q2_k:
      return all_blocks<q2_k_block>(dtype, src, dst);
    case DType::q3_k:
      return all_blocks<q3_k_block>(dtype, src, dst);
    case DType::q4_k:
      return all_blocks<q4_k_block>(dtype, src, dst);
    case DType::q5_k:
      return all_blocks<q5_k_block>(dtype, src, dst);
    case DType::q6_k:
      return all_blocks<q6_k_block>(dtype, src, dst);
    case DType::i8:
    case DType::i32:
    case DType::i64:
      return;
  }
}

}  // namespace tenfold
