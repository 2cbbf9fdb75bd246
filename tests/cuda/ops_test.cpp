// The operations of kernels/cuda/ops.h but attention, on a CUDA device or the interpreter in front
// of one, against the CPU backend's scalar kernels: the same bits where no sum or exponential is
// involved, else within what rounding may do.

#include "kernels/cuda/ops.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "kernels/backend.h"
#include "kernels/cuda/device_layout.h"
#include "kernels/half.h"
#include "tests/cuda/cuda_test.h"
#include "tests/cuda/device_memory.h"
#include "tests/support/packed_matrix.h"
#include "tests/support/random.h"

namespace tenfold {
namespace {

constexpr double kEps = 0x1p-24;  // of one rounding
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::unique_ptr<Backend> reference() { return make_cpu_backend({1, "scalar"}); }

std::int64_t count(const std::vector<float>& v) { return static_cast<std::int64_t>(v.size()); }

template <typename T>
void expect_bits(const std::vector<T>& a, const std::vector<T>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(0, std::memcmp(&a[i], &b[i], sizeof(T))) << i << ": " << +a[i] << " and " << +b[i];
  }
}

class CudaOps : public CudaKernels {};

struct NormShape {
  std::size_t tokens, dim;
};
constexpr NormShape kNormShapes[] = {{1, 1},   {3, 2},    {2, 5},    {5, 31},   {2, 64},   {3, 96},
                                     {2, 129}, {2, 4096}, {1, 5000}, {1, 4097}, {1, 20000}};

// In place and not, with and without a bias.
TEST_F(CudaOps, Norms) {
  for (const auto& [tokens, dim] : kNormShapes) {
    const auto n = static_cast<std::int64_t>(dim);
    const auto t = static_cast<std::int64_t>(tokens);
    std::vector<float> x = random_floats(tokens * dim, 1, 3.0f);
    const auto weight = random_floats(dim, 2);
    const auto bias = random_floats(dim, 3);
    std::vector<float> expected(x.size());
    const DeviceArray<float> w(weight), b(bias), y(x.size());
    SCOPED_TRACE(::testing::Message() << tokens << " x " << dim);

    reference()->rms_norm(x.data(), weight.data(), 1e-5f, t, n, expected.data());
    DeviceArray<float> device_x(x);
    check_cuda(cuda::rms_norm(device_x, w, 1e-5f, t, n, y, nullptr), "rms_norm");
    const std::vector<float> rms = y.read();
    for (std::size_t i = 0; i < x.size(); ++i) {
      // Both sums of squares are off by their length, their root by half of it.
      const double tolerance = std::fabs(expected[i]) * kEps * static_cast<double>(dim + 8);
      ASSERT_NEAR(rms[i], expected[i], tolerance) << i;
    }
    check_cuda(cuda::rms_norm(device_x, w, 1e-5f, t, n, device_x, nullptr), "rms_norm");
    expect_bits(device_x.read(), rms);

    for (float& v : x) v += 10.0f;  // the mean must be removed before squaring
    device_x = DeviceArray<float>(x);
    for (const bool biased : {false, true}) {
      const float* none = nullptr;
      reference()->layer_norm(x.data(), weight.data(), biased ? bias.data() : none, 1e-5f, t, n,
                              expected.data());
      check_cuda(cuda::layer_norm(device_x, w, biased ? b.get() : none, 1e-5f, t, n, y, nullptr),
                 "layer_norm");
      const std::vector<float> layer = y.read();
      for (std::size_t row = 0; row < tokens; ++row) {
        double mean = 0, variance = 0;
        for (std::size_t c = 0; c < dim; ++c) mean += x[row * dim + c] / static_cast<double>(dim);
        for (std::size_t c = 0; c < dim; ++c) {
          variance += std::pow(x[row * dim + c] - mean, 2) / static_cast<double>(dim);
        }
        // A mean of values up to 13 is off by 13 dim roundings, which 1 / deviation magnifies.
        const double shift = 13 * kEps * static_cast<double>(dim + 2);
        const double relative = kEps * static_cast<double>(dim + 8);
        const double deviation = std::sqrt(variance + 1e-5);
        for (std::size_t c = 0; c < dim; ++c) {
          const std::size_t i = row * dim + c;
          const double normed = std::fabs(x[i] - mean) / deviation;
          const double tolerance =
              2 * (shift / deviation * (1 + normed * shift / deviation) + relative * (normed + 1));
          ASSERT_NEAR(layer[i], expected[i], tolerance) << i;
        }
      }
    }
    check_cuda(cuda::layer_norm(device_x, w, b, 1e-5f, t, n, device_x, nullptr), "layer_norm");
    expect_bits(device_x.read(), y.read());
  }
}

// A row's bits do not depend on the rows beside it.
TEST_F(CudaOps, RowsAreNormedAlone) {
  const std::size_t dim = 576;
  const auto x = random_floats(4 * dim, 1);
  const DeviceArray<float> weight(random_floats(dim, 2)), y(4 * dim), alone(dim);
  const DeviceArray<float> device_x(x);
  check_cuda(cuda::rms_norm(device_x, weight, 1e-5f, 4, 576, y, nullptr), "rms_norm");
  check_cuda(cuda::rms_norm(device_x.get() + 3 * dim, weight, 1e-5f, 1, 576, alone, nullptr),
             "rms_norm");
  const std::vector<float> rows = y.read();
  expect_bits(alone.read(), std::vector<float>(rows.begin() + 3 * dim, rows.end()));
}

TEST_F(CudaOps, RopeHasTheCpusBits) {
  for (const std::int64_t head_dim : {2, 8, 64, 80, 128}) {
    for (const std::int64_t heads : {1, 3, 9}) {
      for (const bool interleaved : {false, true}) {
        const std::size_t tokens = 5;
        auto x = random_floats(tokens * static_cast<std::size_t>(heads * head_dim), 1);
        const auto cos = random_floats(tokens * static_cast<std::size_t>(head_dim / 2), 2);
        const auto sin = random_floats(cos.size(), 3);
        const DeviceArray<float> device_x(x), device_cos(cos), device_sin(sin);
        check_cuda(cuda::rope(device_x, device_cos, device_sin, tokens, heads, head_dim,
                              interleaved, nullptr),
                   "rope");
        reference()->rope(x.data(), cos.data(), sin.data(), tokens, heads, head_dim, interleaved);
        expect_bits(device_x.read(), x);
      }
    }
  }
}

TEST_F(CudaOps, SiluMulOverTheWholeRange) {
  std::vector<float> gate = {0.0f, -0.0f, 1e-40f, 3e38f, -3e38f, kInf, -kInf, kNan};
  for (float g = -120.0f; g <= 120.0f; g += 0.37f) gate.push_back(g);
  const std::vector<float> up = random_floats(gate.size(), 1);
  for (std::size_t n = gate.size(); n + 6 > gate.size(); --n) {
    std::vector<float> expected(gate.begin(), gate.begin() + static_cast<std::ptrdiff_t>(n));
    const DeviceArray<float> x(expected), device_up(up);
    check_cuda(cuda::silu_mul(x, device_up, count(expected), x, nullptr), "silu_mul");
    reference()->silu_mul(expected.data(), up.data(), count(expected), expected.data());
    const std::vector<float> y = x.read();
    for (std::size_t i = 0; i < n; ++i) {
      if (std::isfinite(expected[i])) {
        // exp to 2 roundings or so on either side, a sum, a quotient, a product.
        ASSERT_NEAR(y[i], expected[i], std::fabs(expected[i]) * 12 * kEps) << gate[i];
      } else {
        ASSERT_EQ(std::isnan(y[i]), std::isnan(expected[i])) << gate[i];
        ASSERT_EQ(y[i] > 0, expected[i] > 0) << gate[i];
      }
    }
  }
}

// At addresses that allow 16 bytes at a time and at others.
TEST_F(CudaOps, Relu) {
  for (const std::size_t n : {1u, 3u, 4u, 31u, 1024u, 1027u}) {
    std::vector<float> x = random_floats(n + 1, 1);
    x[n / 2] = kNan;
    x[n / 3] = -kInf;
    const DeviceArray<float> device_x(x);
    check_cuda(cuda::relu(device_x.get() + 1, static_cast<std::int64_t>(n), nullptr), "relu");
    reference()->relu(x.data() + 1, static_cast<std::int64_t>(n));
    expect_bits(device_x.read(), x);
    check_cuda(cuda::relu(device_x, static_cast<std::int64_t>(n + 1), nullptr), "relu");
    reference()->relu(x.data(), static_cast<std::int64_t>(n + 1));
    expect_bits(device_x.read(), x);
  }
}

// A table's bands on the device.
class TableOnDevice {
 public:
  explicit TableOnDevice(const MatrixView& matrix) {
    for (const Band& band : matrix.all_bands()) {
      cuda::DeviceBand& to = table.bands[table.n_bands++];
      to.format = band.format;
      to.cols = static_cast<int>(band.cols());
      to.min_kind = band.min_kind;
      if (!is_packed(band.format)) {
        const auto bytes = static_cast<std::size_t>(matrix.rows * band.cols()) *
                           static_cast<std::size_t>(format_traits(band.format).bits) / 8;
        to.segments = upload({band.codes, band.codes + bytes});
        continue;
      }
      const cuda::DeviceWeights weights = cuda::device_weights(band, matrix.rows);
      to.block = weights.block;
      to.segment_bytes = weights.segment_bytes;
      to.segments = upload(weights.segments);
      to.row_factors = upload(weights.row_factors);
    }
  }
  cuda::DeviceTable table;

 private:
  const std::byte* upload(const std::vector<std::byte>& bytes) {
    return memory_.emplace_back(bytes).get();
  }
  std::vector<DeviceArray<std::byte>> memory_;
};

void check_embedding(const PackedMatrix& matrix) {
  SCOPED_TRACE(matrix.description);
  const std::vector<std::int32_t> ids = {0, static_cast<std::int32_t>(matrix.view.rows - 1), 3, 3};
  const auto dim = static_cast<std::size_t>(matrix.view.cols);
  const TableOnDevice table(matrix.view);
  const DeviceArray<std::int32_t> device_ids(ids);
  for (const bool accumulate : {false, true}) {
    std::vector<float> y = random_floats(ids.size() * dim, 9);
    const DeviceArray<float> device_y(y);
    check_cuda(cuda::embed_rows(table.table, device_ids, 4, matrix.view.cols, device_y, accumulate,
                                nullptr),
               "embed_rows");
    reference()->embed_rows(matrix.view, ids.data(), 4, y.data(), accumulate);
    expect_bits(device_y.read(), y);
  }
}

TEST_F(CudaOps, EmbeddingsHaveTheCpusBits) {
  const std::vector<Format> formats = {
#define FLOAT_FORMAT(id, name, bits) Format::name,
#define PACKED_FORMAT(id, name, Type) Format::name,
#include "kernels/formats/formats.def"
  };
  for (const Format format : formats) {
    for (const MinKind min : {MinKind::zero, MinKind::midrise, MinKind::f16}) {
      for (const std::int64_t group : {32, 64, 128, 0}) {
        if (!is_packed(format) && (group != 0 || min != MinKind::zero)) continue;
        for (const std::int64_t cols : {1, 330, 1030}) {
          check_embedding(PackedMatrix(37, cols, {{format, min, 0, cols, group}}));
          if (HasFatalFailure()) return;
        }
      }
    }
  }
  check_embedding(PackedMatrix(33, 480,
                               {{Format::q1, MinKind::midrise, 0, 320, 64},
                                {Format::q4, MinKind::zero, 320, 416, 32},
                                {Format::f16, MinKind::zero, 416, 480, 0}}));
}

TEST_F(CudaOps, RowsAreGathered) {
  for (const std::size_t dim : {1u, 33u, 300u}) {
    const auto x = random_floats(7 * dim, 1);
    const std::vector<std::int32_t> rows = {6, 0, 0, 3};
    const DeviceArray<float> device_x(x), y(rows.size() * dim);
    const DeviceArray<std::int32_t> device_rows(rows);
    check_cuda(
        cuda::gather_rows(device_x, device_rows, 4, static_cast<std::int64_t>(dim), y, nullptr),
        "gather_rows");
    std::vector<float> expected;
    for (const std::int32_t row : rows) {
      const auto from = x.begin() + row * static_cast<std::ptrdiff_t>(dim);
      expected.insert(expected.end(), from, from + static_cast<std::ptrdiff_t>(dim));
    }
    expect_bits(y.read(), expected);
  }
}

std::vector<double> device_nll(const std::vector<float>& logits,
                               const std::vector<std::int32_t>& targets) {
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<std::int32_t> device_targets(targets);
  const DeviceArray<double> result(targets.size());
  const auto n = static_cast<std::int64_t>(targets.size());
  check_cuda(cuda::nll(device_logits, count(logits) / n, device_targets, n, result, nullptr),
             "nll");
  return result.read();
}

TEST_F(CudaOps, NegativeLogLikelihoods) {
  for (const std::size_t vocab : {1u, 2u, 31u, 512u, 5003u}) {
    for (const float scale : {0.0f, 1.0f, 40.0f}) {
      const auto logits = random_floats(3 * vocab, 1, scale);
      const auto last = static_cast<std::int32_t>(vocab - 1);
      const std::vector<std::int32_t> targets = {0, last, last / 2};
      std::vector<double> expected(3);
      reference()->nll(logits.data(), static_cast<std::int64_t>(vocab), targets, expected.data());
      const std::vector<double> result = device_nll(logits, targets);
      for (std::size_t i = 0; i < 3; ++i) {
        // Each exponential is off by 4 roundings or so, relative to itself, on either side; the sum
        // is in double.
        EXPECT_NEAR(result[i], expected[i], 8 * kEps) << vocab << " " << scale;
      }
    }
  }
}

TEST_F(CudaOps, NegativeLogLikelihoodsThatAreNotFinite) {
  std::vector<float> logits = random_floats(5 * 600, 1);
  logits[577] = kNan;            // row 0
  logits[600] = kNan;            // row 1: the first, and the target
  logits[2 * 600 + 599] = kInf;  // row 2
  logits[3 * 600 + 20] = -kInf;  // row 3: the target
  logits[4 * 600 + 1] = -kInf;   // row 4
  const std::vector<double> result = device_nll(logits, {3, 0, 3, 20, 3});
  EXPECT_TRUE(std::isnan(result[0]));
  EXPECT_TRUE(std::isnan(result[1]));
  EXPECT_EQ(result[2], kInf);
  EXPECT_EQ(result[3], kInf);
  EXPECT_TRUE(std::isfinite(result[4]));
}

std::vector<TopLogit> best_of(const std::vector<float>& logits, std::size_t k) {
  std::vector<TopLogit> best;
  for (const float logit : logits) best.push_back({logit, static_cast<std::int32_t>(best.size())});
  const auto better = [](const TopLogit& a, const TopLogit& b) {
    return std::isnan(a.logit) ? !std::isnan(b.logit) : a.logit > b.logit;
  };
  std::ranges::stable_sort(best, better);
  best.resize(k);
  return best;
}

void check_top(const std::vector<float>& logits, std::size_t vocab, int k) {
  const std::size_t rows = logits.size() / vocab, n = static_cast<std::size_t>(k);
  const DeviceArray<float> device_logits(logits);
  const DeviceArray<TopLogit> best(rows * n);
  check_cuda(cuda::top_k(device_logits, static_cast<std::int64_t>(vocab),
                         static_cast<std::int64_t>(rows), k, best, nullptr),
             "top_k");
  const std::vector<TopLogit> found = best.read();
  for (std::size_t row = 0; row < rows; ++row) {
    const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row * vocab);
    const auto expected = best_of({begin, begin + static_cast<std::ptrdiff_t>(vocab)}, n);
    for (std::size_t i = 0; i < n; ++i) {
      const TopLogit& top = found[row * n + i];
      ASSERT_EQ(top.token, expected[i].token) << vocab << ", row " << row << ", place " << i;
      ASSERT_TRUE(top.logit == expected[i].logit ||
                  (std::isnan(top.logit) && std::isnan(expected[i].logit)))
          << top.logit << " and " << expected[i].logit;
    }
  }
}

TEST_F(CudaOps, TopLogitsAreTheBestOfEachRow) {
  for (const std::size_t vocab : {1u, 2u, 33u, 512u, 1023u, 1025u, 4099u, 32000u}) {
    std::vector<float> logits = random_floats(7 * vocab, 1);
    const auto row = [&](std::size_t i) { return std::span(logits).subspan(i * vocab, vocab); };
    row(1)[vocab / 2] = row(1)[vocab - 1] = 7;  // a tie
    std::ranges::fill(row(2), -kInf);
    std::ranges::fill(row(3), kNan);
    for (float& logit : row(4)) logit = std::round(4 * logit);  // many, zeros of both signs
    row(5)[vocab / 3] = kNan, row(5)[vocab - 1] = kInf;
    for (std::size_t i = 0; i + 1 < vocab; ++i) row(6)[i] = -kInf;
    for (const int k : {1, 2, 40, kMostTopLogits}) {
      if (static_cast<std::size_t>(k) > vocab) continue;
      check_top(logits, vocab, k);
      if (HasFatalFailure()) return;
    }
  }
}

// Nearly all of the best ones in a few threads' columns: more than are held.
TEST_F(CudaOps, TopLogitsOfAFewColumns) {
  const std::size_t vocab = 40000;
  std::vector<float> logits = random_floats(2 * vocab, 1);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (i % vocab % 1024 >= 64) logits[i] -= 10;
  }
  for (const int k : {1, 40, kMostTopLogits}) check_top(logits, vocab, k);
}

TEST_F(CudaOps, TopLogitsRefusesWhatItCannotDo) {
  const float* none = nullptr;
  for (const int k : {0, 11, kMostTopLogits + 1}) {
    EXPECT_EQ(cuda::top_k(none, k == 11 ? 10 : 1000, 1, k, nullptr, nullptr),
              cudaErrorInvalidValue);
  }
  EXPECT_EQ(cuda::top_k(none, 10, 0, 1, nullptr, nullptr), cudaSuccess);
}

TEST_F(CudaOps, RowsAreConvertedThroughAnInputMap) {
  for (const std::size_t cols : {1u, 37u, 300u}) {
    const std::size_t tokens = 3, ldx = cols + 5;
    std::vector<float> x = random_floats(tokens * ldx, 1, 100.0f);
    x[0] = 70000.0f, x[ldx] = 1e-7f, x[2 * ldx] = kNan;
    const auto factor = random_floats(cols, 2);
    std::vector<std::int32_t> source;
    for (std::size_t c = cols; c-- > 0;) source.push_back(static_cast<std::int32_t>(c));
    const DeviceArray<float> device_x(x), device_factor(factor);
    const DeviceArray<std::int32_t> device_source(source);
    for (const bool mapped : {false, true}) {
      std::vector<float> f32;
      std::vector<std::uint16_t> f16, bf16;
      for (std::size_t t = 0; t < tokens; ++t) {
        for (std::size_t c = 0; c < cols; ++c) {
          const auto from = mapped ? static_cast<std::size_t>(source[c]) : c;
          f32.push_back(mapped ? x[t * ldx + from] * factor[c] : x[t * ldx + from]);
          f16.push_back(f32_to_f16(f32.back()));
          bf16.push_back(f32_to_bf16(f32.back()));
        }
      }
      const auto convert = [&](Format format, auto& to) {
        check_cuda(cuda::convert_rows(device_x, static_cast<std::int64_t>(ldx),
                                      mapped ? device_source.get() : nullptr,
                                      mapped ? device_factor.get() : nullptr, tokens,
                                      static_cast<std::int64_t>(cols), format, to.get(), nullptr),
                   "convert_rows");
        return to.read();
      };
      const DeviceArray<float> as_f32(f32.size());
      const DeviceArray<std::uint16_t> as_f16(f16.size()), as_bf16(bf16.size());
      const auto result32 = convert(Format::f32, as_f32);
      const auto result16 = convert(Format::f16, as_f16);
      const auto result_b16 = convert(Format::bf16, as_bf16);
      for (std::size_t i = 0; i < f32.size(); ++i) {
        if (std::isnan(f32[i])) {
          EXPECT_TRUE(std::isnan(result32[i]) && std::isnan(f16_to_f32(result16[i])) &&
                      std::isnan(bf16_to_f32(result_b16[i])));
          continue;
        }
        ASSERT_EQ(result32[i], f32[i]);
        ASSERT_EQ(result16[i], f16[i]);
        ASSERT_EQ(result_b16[i], bf16[i]);
      }
    }
    EXPECT_EQ(cuda::convert_rows(device_x, 1, nullptr, nullptr, 1, 1, Format::q4, device_x.get(),
                                 nullptr),
              cudaErrorInvalidValue);
  }
}

TEST_F(CudaOps, BiasIsAdded) {
  for (const std::size_t rows : {1u, 45u, 259u}) {
    const std::size_t tokens = 3, ldy = rows + 4;
    const auto product = random_floats(tokens * rows, 1);
    const auto bias = random_floats(rows, 2);
    const DeviceArray<float> device_product(product), device_bias(bias);
    for (const bool biased : {false, true}) {
      for (const bool accumulate : {false, true}) {
        std::vector<float> y = random_floats(tokens * ldy, 3);
        const DeviceArray<float> device_y(y);
        check_cuda(cuda::add_bias(device_product, biased ? device_bias.get() : nullptr, tokens,
                                  static_cast<std::int64_t>(rows), device_y,
                                  static_cast<std::int64_t>(ldy), accumulate, nullptr),
                   "add_bias");
        for (std::size_t t = 0; t < tokens; ++t) {
          for (std::size_t r = 0; r < rows; ++r) {
            const float sum = biased ? product[t * rows + r] + bias[r] : product[t * rows + r];
            y[t * ldy + r] = accumulate ? y[t * ldy + r] + sum : sum;
          }
        }
        expect_bits(device_y.read(), y);
      }
    }
  }
}

TEST_F(CudaOps, NoTokensAreNoError) {
  float* none = nullptr;
  EXPECT_EQ(cuda::rms_norm(none, none, 1e-5f, 0, 8, none, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::layer_norm(none, none, none, 1e-5f, 0, 8, none, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::rope(none, none, none, 0, 2, 8, false, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::silu_mul(none, none, 0, none, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::relu(none, 0, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::gather_rows(none, nullptr, 0, 8, none, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::nll(none, 8, nullptr, 0, nullptr, nullptr), cudaSuccess);
  EXPECT_EQ(cuda::convert_rows(none, 8, nullptr, nullptr, 0, 8, Format::f16, nullptr, nullptr),
            cudaSuccess);
  EXPECT_EQ(cuda::add_bias(none, none, 0, 8, none, 8, false, nullptr), cudaSuccess);
}

}  // namespace
}  // namespace tenfold
