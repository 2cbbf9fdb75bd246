#include <gtest/gtest.h>

#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "runtime/files/tensor_source.h"
#include "tests/support/scratch_folder.h"

namespace tenfold {
namespace {

struct Golden {
  const char* name;
  DType dtype;
};

class Dequantize : public ::testing::TestWithParam<Golden> {};

std::string golden(const std::string& name) {
  return testing::read_file(std::string(TENFOLD_TEST_DATA "/dequantize/") + name);
}

// At offsets 0..3 of a buffer, because tensor data may be unaligned.
TEST_P(Dequantize, AgreesWithGgmlBitForBit) {
  const auto [name, dtype] = GetParam();
  const std::string blocks = golden(std::string(name) + ".bin");
  const std::string expected = golden(std::string(name) + ".f32");
  const DTypeTraits traits = dtype_traits(dtype);
  ASSERT_GT(blocks.size(), 0u);
  const std::size_t n = blocks.size() / traits.bytes * traits.block;
  ASSERT_EQ(expected.size(), n * sizeof(float));
  for (std::size_t offset = 0; offset < 4; ++offset) {
    std::vector<std::byte> src(offset + blocks.size());
    std::memcpy(src.data() + offset, blocks.data(), blocks.size());
    std::vector<float> dst(n);
    dequantize(dtype, std::span(src).subspan(offset), dst);
    for (std::size_t i = 0; i < n; ++i) {
      std::uint32_t bits = 0;
      std::memcpy(&bits, expected.data() + i * sizeof bits, sizeof bits);
      ASSERT_EQ(std::bit_cast<std::uint32_t>(dst[i]), bits) << "element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, Dequantize,
                         ::testing::Values(Golden{"f16", DType::f16}, Golden{"bf16", DType::bf16},
                                           Golden{"q4_0", DType::q4_0}, Golden{"q4_1", DType::q4_1},
                                           Golden{"q5_0", DType::q5_0}, Golden{"q5_1", DType::q5_1},
                                           Golden{"q8_0", DType::q8_0}, Golden{"q2_k", DType::q2_k},
                                           Golden{"q3_k", DType::q3_k}, Golden{"q4_k", DType::q4_k},
                                           Golden{"q5_k", DType::q5_k},
                                           Golden{"q6_k", DType::q6_k}),
                         [](const auto& test) { return test.param.name; });

TEST(DequantizeF32, CopiesTheBits) {
  const std::vector<float> values = {0.0f, -0.0f, 1.5f, -1e-42f, 3e38f};
  std::vector<float> result(values.size());
  dequantize(DType::f32, std::as_bytes(std::span(values)), result);
  EXPECT_EQ(std::memcmp(values.data(), result.data(), values.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace tenfold
