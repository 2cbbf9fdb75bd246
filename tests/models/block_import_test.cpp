// Q4_0, Q4_1 and Q8_0 repacked mean the same weights, bit for bit.

#include "models/block_import.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "kernels/formats/codec.h"
#include "kernels/half.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

// Random codes under finite scales of both signs.
std::vector<std::byte> random_blocks(DType dtype, std::int64_t n_blocks, std::uint32_t seed) {
  const std::size_t block_bytes = dtype_traits(dtype).bytes;
  std::mt19937 rng(seed);
  std::vector<std::byte> bytes(static_cast<std::size_t>(n_blocks) * block_bytes);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(rng());
  const auto scales = random_floats(static_cast<std::size_t>(2 * n_blocks), seed, 0.2f);
  for (std::size_t b = 0; b < static_cast<std::size_t>(n_blocks); ++b) {
    for (std::size_t i = 0; i < (dtype == DType::q4_1 ? 2u : 1u); ++i) {
      const std::uint16_t half = f32_to_f16(scales[2 * b + i]);
      std::memcpy(bytes.data() + b * block_bytes + 2 * i, &half, 2);
    }
  }
  return bytes;
}

class BlockImport : public ::testing::TestWithParam<DType> {};

TEST_P(BlockImport, IsLossless) {
  ThreadPool pool(2);
  for (const std::int64_t rows : {1, 16, 17, 48}) {
    for (const std::int64_t cols : {32, 96, 576}) {
      // Odd address: tensor data may be unaligned.
      const auto blocks = random_blocks(GetParam(), rows * cols / 32, 11);
      std::vector<std::byte> memory(blocks.size() + 1);
      std::memcpy(memory.data() + 1, blocks.data(), blocks.size());
      TensorSource tensor;
      tensor.shape = {rows, cols};
      tensor.dtype = GetParam();
      tensor.data = std::span(memory).subspan(1);
      const auto layout = exact_layout(tensor);
      ASSERT_TRUE(layout.has_value());
      std::vector<float> expected(static_cast<std::size_t>(rows * cols));
      dequantize(tensor.dtype, tensor.data, expected);
      const QuantizedMatrix matrix = import_blocks(tensor, *layout, pool);
      std::vector<float> row(static_cast<std::size_t>(cols));
      for (std::int64_t r = 0; r < rows; ++r) {
        dequantize_row(matrix.view, r, row.data());
        for (std::size_t c = 0; c < row.size(); ++c) {
          // + 0: a code of 0 under a negative scale is -0 there and 0 here.
          const float wanted = expected[static_cast<std::size_t>(r * cols) + c] + 0.0f;
          ASSERT_EQ(std::bit_cast<std::uint32_t>(row[c] + 0.0f),
                    std::bit_cast<std::uint32_t>(wanted))
              << r << ", " << c;
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, BlockImport,
                         ::testing::Values(DType::q4_0, DType::q4_1, DType::q8_0),
                         [](const auto& test) {
                           return std::string(dtype_traits(test.param).name);
                         });

TEST(BlockImportLayout, IsForMatricesOfTheThreeTypes) {
  TensorSource tensor;
  tensor.shape = {4, 256};
  for (const DType dtype : {DType::f32, DType::f16, DType::q5_0, DType::q6_k}) {
    tensor.dtype = dtype;
    EXPECT_FALSE(exact_layout(tensor).has_value());
  }
  tensor.dtype = DType::q4_1;
  EXPECT_TRUE(exact_layout(tensor).has_value());
  tensor.shape = {256};
  EXPECT_FALSE(exact_layout(tensor).has_value());
}

}  // namespace
}  // namespace tenfold
