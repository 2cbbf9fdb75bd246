// Packed products against a double-precision oracle: every width, group, minimum and ISA over odd
// shapes and token counts.

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/formats/codec.h"
#include "kernels/formats/plane.h"
#include "tests/support/kernel_tables.h"
#include "tests/support/packed_matrix.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

struct Product {
  std::int64_t tokens = 1;
  Activations activations = Activations::int8;
  bool bias = false, accumulate = false;
  bool outliers = false;  // in some blocks of some tokens
};

void add_outliers(std::vector<float>& x, std::size_t ldx) {
  for (std::size_t t = 0; t * ldx < x.size(); ++t) {
    if (t % 3 != 1) x[t * ldx + (t * 37 + 11) % ldx] = t % 2 == 0 ? 300.0f : -77.0f;
  }
}

std::vector<float> run(const KernelTable& kernels, int threads, const MatrixView& weight,
                       const std::vector<float>& x, const std::vector<float>& bias,
                       const std::vector<float>& y0, const Product& product) {
  CpuBackend backend(kernels, threads, product.activations);
  std::vector<float> y = y0;
  const std::int64_t ldy = static_cast<std::int64_t>(y0.size()) / product.tokens;
  const Linear linear{weight, product.bias ? bias.data() : nullptr, y.data(), ldy,
                      product.accumulate};
  const std::int64_t ldx = static_cast<std::int64_t>(x.size()) / product.tokens;
  backend.linear({&linear, 1}, x.data(), ldx, product.tokens);
  return y;
}

// The activations as kernels see them, in double: rounded to steps of a block's largest value /
// 127, and in the precise mode, or where a block holds an outlier, to steps of that / 254.
struct Rounded {
  std::vector<double> value;  // [cols]
};

Rounded round_block(const MatrixView& weight, const float* x, Activations activations) {
  Rounded result;
  result.value.resize(static_cast<std::size_t>(weight.cols));
  const auto mapped = [&](std::int64_t c) {
    const float v = x[weight.map.source == nullptr ? c : weight.map.source[c]];
    return weight.map.factor == nullptr ? v : v * weight.map.factor[c];
  };
  double energy = 0;
  for (std::int64_t c = 0; c < weight.cols; ++c) energy += std::pow(mapped(c), 2);
  for (const Band& band : weight.all_bands()) {
    const std::int64_t block = std::min(band.group, kMaxActivationBlock);
    for (std::int64_t begin = 0; begin < band.cols(); begin += block) {
      const std::int64_t n = std::min(block, band.cols() - begin);
      float largest = 0;
      for (std::int64_t i = 0; i < n; ++i) {
        largest = std::max(largest, std::fabs(mapped(band.col_begin + begin + i)));
      }
      const float step = largest / 127.0f;
      const float inverse = step > 0 ? 1.0f / step : 0.0f;
      for (std::int64_t i = 0; i < n; ++i) {
        const float v = mapped(band.col_begin + begin + i);
        const float code = std::nearbyint(v * inverse);
        double sum = static_cast<double>(step) * code;
        if (activations == Activations::int8x2 ||
            std::pow(largest, 2) * static_cast<double>(n) > 4 * energy) {
          const float fine = step / 254.0f;
          const float rest = v - step * code;
          const float second = fine > 0 ? std::nearbyint(rest * (1.0f / fine)) : 0.0f;
          sum += static_cast<double>(fine) * second;
        }
        result.value[static_cast<std::size_t>(band.col_begin + begin + i)] = sum;
      }
    }
  }
  return result;
}

// Float operations after the exact integer sums: for each block and plane, scale * block scale and
// two fused sums; each rounds a term or a partial sum that is at most the sum of all |terms|.
double tolerance(double norm, std::int64_t roundings) {
  return norm * static_cast<double>(roundings + 4) * std::numeric_limits<float>::epsilon() / 2;
}

void check(const KernelTable& kernels, const PackedMatrix& matrix, const Product& product) {
  const MatrixView& w = matrix.view;
  const auto tokens = static_cast<std::size_t>(product.tokens);
  const auto rows = static_cast<std::size_t>(w.rows);
  const auto cols = static_cast<std::size_t>(w.cols);
  const std::size_t ldy = rows + 3;
  std::vector<float> x = random_floats(tokens * (cols + 1), 7);
  if (product.outliers) add_outliers(x, cols + 1);
  const std::vector<float> bias = random_floats(rows, 8);
  const std::vector<float> y0 = random_floats(tokens * ldy, 9);
  const std::vector<float> y = run(kernels, 1, w, x, bias, y0, product);
  std::vector<double> dense(rows * cols), extent(rows * cols);
  std::int64_t blocks = 0;
  for (const Band& band : w.all_bands()) {
    blocks += (band.cols() + 31) / 32;
    for (std::int64_t r = 0; r < w.rows; ++r) {
      std::vector<float> row(static_cast<std::size_t>(band.cols()));
      dequantize_band_row(band, r, row.data());
      for (std::int64_t c = 0; c < band.cols(); ++c) {
        const auto at = static_cast<std::size_t>(r * w.cols + band.col_begin + c);
        dense[at] = row[static_cast<std::size_t>(c)];
        // scale * code and min are added apart: each counts with its own size.
        extent[at] = std::fabs(dense[at]);
        if (is_packed(band.format)) {
          const double min = group_min(band, r, c / band.group);
          extent[at] = std::fabs(dense[at] - min) + std::fabs(min);
        }
      }
    }
  }
  const bool second = product.outliers || product.activations == Activations::int8x2;
  const std::int64_t planes = second ? 2 : 1;
  for (std::size_t t = 0; t < tokens; ++t) {
    const Rounded input = round_block(w, x.data() + t * (cols + 1), product.activations);
    for (std::size_t r = 0; r < rows; ++r) {
      double expected = 0;
      if (product.bias) expected += bias[r];
      if (product.accumulate) expected += y0[t * ldy + r];
      double norm = std::fabs(expected) + 2;
      for (std::size_t c = 0; c < cols; ++c) {
        expected += dense[r * cols + c] * input.value[c];
        norm += extent[r * cols + c] * std::fabs(input.value[c]);
      }
      ASSERT_NEAR(y[t * ldy + r], expected, tolerance(norm, 4 * blocks * planes))
          << matrix.description << " row " << r << " token " << t << " of " << tokens;
    }
    for (std::size_t r = rows; r < ldy; ++r) ASSERT_EQ(y[t * ldy + r], y0[t * ldy + r]);
  }
}

// Every token alone, and all of them with two threads, gives the same bits.
void check_bits(const KernelTable& kernels, const PackedMatrix& matrix, const Product& product) {
  const auto tokens = static_cast<std::size_t>(product.tokens);
  const auto rows = static_cast<std::size_t>(matrix.view.rows);
  const auto cols = static_cast<std::size_t>(matrix.view.cols);
  std::vector<float> x = random_floats(tokens * cols, 17);
  if (product.outliers) add_outliers(x, cols);
  const std::vector<float> y0(tokens * rows);
  const std::vector<float> together = run(kernels, 1, matrix.view, x, {}, y0, product);
  EXPECT_EQ(together, run(kernels, 2, matrix.view, x, {}, y0, product)) << matrix.description;
  for (std::size_t t = 0; t < tokens; ++t) {
    Product one = product;
    one.tokens = 1;
    const std::vector<float> row(x.begin() + static_cast<std::ptrdiff_t>(t * cols),
                                 x.begin() + static_cast<std::ptrdiff_t>((t + 1) * cols));
    const std::vector<float> alone =
        run(kernels, 1, matrix.view, row, {}, std::vector<float>(rows), one);
    ASSERT_EQ(0, std::memcmp(alone.data(), together.data() + t * rows, rows * sizeof(float)))
        << matrix.description << " token " << t << " of " << tokens;
  }
}

constexpr std::int64_t kTokenCounts[] = {1, 2, 3, 7, 8, 17, 31, 32, 64, 130};
constexpr MinKind kMinKinds[] = {MinKind::zero, MinKind::midrise, MinKind::f16};

std::vector<Format> packed_formats() {
  return {
#define PACKED_FORMAT(id, name, Type) Format::name,
#include "kernels/formats/formats.def"
  };
}

class PackedTest : public ::testing::TestWithParam<NamedKernels> {
 protected:
  const KernelTable& kernels() const { return *GetParam().table; }
};

TEST_P(PackedTest, EveryWidthGroupAndMinimum) {
  for (const Format format : packed_formats()) {
    for (const MinKind min : kMinKinds) {
      for (const std::int64_t group : {32, 64, 128, 0}) {
        for (const std::int64_t cols : {64, 100, 576, 1}) {
          const PackedMatrix matrix(19, cols, {{format, min, 0, cols, group}});
          for (const std::int64_t tokens : {1, 3, 34}) {
            check(kernels(), matrix, {tokens, Activations::int8, true, false});
            if (HasFatalFailure()) return;
          }
        }
      }
    }
  }
}

TEST_P(PackedTest, EveryTokenCount) {
  for (const Format format : packed_formats()) {
    for (const std::int64_t rows : {1, 16, 37}) {
      const PackedMatrix matrix(rows, 200, {{format, MinKind::zero, 0, 200, 64}});
      for (const std::int64_t tokens : kTokenCounts) {
        check(kernels(), matrix, {tokens, Activations::int8, false, true});
        check_bits(kernels(), matrix, {tokens, Activations::int8, false, false});
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(PackedTest, PreciseActivations) {
  for (const Format format : packed_formats()) {
    const PackedMatrix matrix(21, 300, {{format, MinKind::f16, 0, 300, 128}});
    for (const std::int64_t tokens : {1, 5, 40}) {
      check(kernels(), matrix, {tokens, Activations::int8x2, true, true});
      check_bits(kernels(), matrix, {tokens, Activations::int8x2, false, false});
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(PackedTest, OutliersGetASecondCode) {
  for (const Format format : packed_formats()) {
    const PackedMatrix matrix(21, 700, {{format, MinKind::f16, 0, 700, 128}});
    const PackedMatrix mapped(
        33, 352, {{Format::q4, MinKind::zero, 0, 96, 32}, {format, MinKind::zero, 96, 352, 0}},
        /*mapped=*/true);
    for (const std::int64_t tokens : {1, 2, 5, 8, 12, 40}) {
      for (const PackedMatrix* one : {&matrix, &mapped}) {
        check(kernels(), *one, {tokens, Activations::int8, true, true, true});
        check_bits(kernels(), *one, {tokens, Activations::int8, false, false, true});
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(PackedTest, TwoBandsAtEveryLegalEdge) {
  for (std::int64_t edge = 16; edge < 176; edge += 16) {
    const PackedMatrix rows(
        18, 176,
        {{Format::q4, MinKind::zero, 0, edge, 0}, {Format::q1, MinKind::f16, edge, 176, 0}});
    const PackedMatrix groups(
        33, 170,
        {{Format::q3, MinKind::midrise, 0, edge, 32}, {Format::q2, MinKind::zero, edge, 170, 64}});
    for (const std::int64_t tokens : {1, 4, 33}) {
      check(kernels(), rows, {tokens, Activations::int8, false, false});
      check(kernels(), groups, {tokens, Activations::int8, true, false});
      check_bits(kernels(), rows, {tokens, Activations::int8, false, false});
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(PackedTest, FloatBandsAndInputMaps) {
  const PackedMatrix matrix(35, 160,
                            {{Format::f16, MinKind::zero, 0, 32, 0},
                             {Format::q2, MinKind::zero, 32, 96, 32},
                             {Format::q4, MinKind::f16, 96, 160, 0}},
                            /*mapped=*/true);
  for (const std::int64_t tokens : {1, 3, 40}) {
    check_bits(kernels(), matrix, {tokens, Activations::int8, false, false});
    if (HasFatalFailure()) return;
  }
  const PackedMatrix packed(
      35, 160, {{Format::q1, MinKind::f16, 0, 128, 0}, {Format::q4, MinKind::zero, 128, 160, 0}},
      /*mapped=*/true);
  for (const std::int64_t tokens : {1, 3, 40}) {
    check(kernels(), packed, {tokens, Activations::int8, true, false});
    if (HasFatalFailure()) return;
  }
}

// Products of one call, whatever inputs they share, equal products alone.
TEST_P(PackedTest, PartsOfOneCallAreIndependent) {
  const PackedMatrix q(40, 256, {{Format::q4, MinKind::zero, 0, 256, 128}});
  const PackedMatrix k(24, 256, {{Format::q2, MinKind::midrise, 0, 256, 128}});
  const PackedMatrix v(24, 256, {{Format::q4, MinKind::f16, 0, 256, 32}});
  const PackedMatrix mapped(50, 256, {{Format::q1, MinKind::f16, 0, 256, 0}}, /*mapped=*/true);
  const PackedMatrix floats(17, 256, {{Format::bf16, MinKind::zero, 0, 256, 0}});
  const std::array<const PackedMatrix*, 5> matrices = {&q, &k, &v, &mapped, &floats};
  for (const std::int64_t tokens : {1, 9, 40}) {
    const auto n = static_cast<std::size_t>(tokens);
    const std::vector<float> x = random_floats(n * 256, 5);
    std::array<std::vector<float>, 5> y;
    std::array<Linear, 5> parts;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const std::int64_t rows = matrices[i]->view.rows;
      y[i].resize(n * static_cast<std::size_t>(rows));
      parts[i] = {matrices[i]->view, nullptr, y[i].data(), rows, false};
    }
    CpuBackend backend(kernels(), 2, Activations::int8);
    backend.linear(parts, x.data(), 256, tokens);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      EXPECT_EQ(y[i], run(kernels(), 1, matrices[i]->view, x, {}, std::vector<float>(y[i].size()),
                          {tokens, Activations::int8, false, false}))
          << matrices[i]->description;
    }
  }
}

TEST_P(PackedTest, EmbeddingRowsComeFromPackedWeights) {
  const PackedMatrix table(50, 96, {{Format::q8, MinKind::zero, 0, 96, 32}});
  CpuBackend backend(kernels(), 1, Activations::int8);
  const std::vector<std::int32_t> ids = {49, 0, 17};
  std::vector<float> y(3 * 96, 1.0f);
  backend.embed_rows(table.view, ids.data(), 3, y.data(), true);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    std::vector<float> row(96);
    dequantize_row(table.view, ids[i], row.data());
    for (std::size_t c = 0; c < row.size(); ++c) EXPECT_EQ(y[i * 96 + c], 1.0f + row[c]);
  }
}

TEST_P(PackedTest, ExtremeCodesAndActivations) {  // all codes 2^b - 1, all activations +-127 steps
  for (const Format format : packed_formats()) {
    for (const std::int64_t cols : {128, 1024}) {
      const PackedMatrix matrix(16, cols, {{format, MinKind::zero, 0, cols, 128}}, false, true);
      for (const float sign : {1.0f, -1.0f}) {
        for (const std::int64_t tokens : {1, 2, 4, 12, 36}) {
          const std::vector<float> x(static_cast<std::size_t>(tokens * cols), sign * 127.0f);
          const std::vector<float> y =
              run(kernels(), 1, matrix.view, x, {},
                  std::vector<float>(static_cast<std::size_t>(tokens * 16)),
                  {tokens, Activations::int8, false, false});
          std::vector<float> row(static_cast<std::size_t>(cols));
          dequantize_row(matrix.view, 3, row.data());
          const double expected = sign * 127.0 * static_cast<double>(cols) * row[0];
          // Scales are powers of two and zero points 0: nothing rounds below 2^24.
          EXPECT_EQ(y[3], static_cast<float>(expected)) << matrix.description << " x " << tokens;
        }
      }
    }
  }
}

TEST_P(PackedTest, ZeroAndTinyInputs) {
  const PackedMatrix matrix(16, 64, {{Format::q4, MinKind::zero, 0, 64, 32}});
  for (const float value : {0.0f, 1e-40f, -1e-44f}) {
    const std::vector<float> x(64, value);
    for (const float y : run(kernels(), 1, matrix.view, x, {}, std::vector<float>(16),
                             {1, Activations::int8x2, false, false})) {
      EXPECT_EQ(y, 0.0f);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, PackedTest, ::testing::ValuesIn(all_kernels()),
                         [](const auto& test) { return test.param.name; });

// Integer parts agree exactly between instruction sets: with scales that are powers of two and few
// blocks nothing rounds, so whole outputs must be equal.
TEST(PackedAcrossIsas, IntegerPartsAgree) {
  for (const Format format : packed_formats()) {
    const PackedMatrix matrix(48, 256, {{format, MinKind::zero, 0, 256, 128}}, false, true);
    std::vector<float> x = random_floats(40 * 256, 3);
    for (float& v : x) v = std::nearbyint(v * 127.0f);
    for (std::size_t i = 0; i < x.size(); i += 128) x[i] = 127.0f;  // every block's step is 1
    const Product product{40, Activations::int8, false, false};
    const std::vector<float> reference =
        run(scalar_kernels(), 1, matrix.view, x, {}, std::vector<float>(40 * 48), product);
    for (const NamedKernels& kernels : all_kernels()) {
      EXPECT_EQ(reference,
                run(*kernels.table, 1, matrix.view, x, {}, std::vector<float>(40 * 48), product))
          << kernels.name << " " << matrix.description;
    }
  }
}

}  // namespace
}  // namespace tenfold
