#include "models/spec.h"

#include <cmath>
#include <numbers>

#include "kernels/backend.h"
#include "kernels/error.h"

namespace tenfold {
namespace {

void check_range(const std::string& file, const char* field, std::int64_t value,
                 std::int64_t most) {
  if (value < 1 || value > most) {
    throw_file_error(file, "{} is {}, expected 1 ... {}", field, value, most);
  }
}

// Llama 3.1: wavelengths beyond original_context / low_freq_factor are stretched by `factor`, short
// ones are kept, and a linear blend lies between (transformers, modeling_rope_utils).
double llama3_frequency(const RopeSpec& rope, double frequency) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  if (wavelength > rope.original_context / rope.low_freq_factor) return frequency / rope.factor;
  if (wavelength < rope.original_context / rope.high_freq_factor) return frequency;
  const double smooth = (rope.original_context / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return (1.0 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

std::vector<double> RopeSpec::frequencies(std::int64_t head_dim) const {
  std::vector<double> result;
  for (std::int64_t i = 0; i < head_dim / 2; ++i) {
    double frequency =
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (scaling == RopeScaling::linear) frequency /= factor;
    if (scaling == RopeScaling::llama3) frequency = llama3_frequency(*this, frequency);
    if (!divisors.empty()) frequency /= static_cast<double>(divisors[static_cast<std::size_t>(i)]);
    result.push_back(frequency);
  }
  return result;
}

void DecoderSpec::validate(const std::string& file) const {
  check_range(file, "the number of layers", layers, 1024);
  check_range(file, "the hidden size", dim, 1 << 18);
  check_range(file, "the embedding width", embed_dim, 1 << 18);
  check_range(file, "the FFN size", ffn, 1 << 20);
  check_range(file, "the number of attention heads", heads, 1024);
  check_range(file, "the number of key/value heads", kv_heads, heads);
  check_range(file, "the head size", head_dim, 1024);
  check_range(file, "the vocabulary size", vocab, 1 << 24);
  check_range(file, "the context length", max_context, 1 << 26);
  if (heads % kv_heads != 0 || heads / kv_heads > kMaxHeadGroup) {
    throw_file_error(file, "{} attention heads cannot share {} key/value heads", heads, kv_heads);
  }
  if (rope.enabled && head_dim % 2 != 0) {
    throw_file_error(file, "head size {} is odd, but rotary positions need pairs", head_dim);
  }
  if (!(norm_eps >= 0.0f && norm_eps < 1.0f)) {
    throw_file_error(file, "the norm epsilon is {}, expected 0 ... 1", norm_eps);
  }
  const bool sane = rope.theta > 0 && rope.factor > 0 && rope.original_context > 0 &&
                    rope.low_freq_factor > 0 && rope.high_freq_factor > rope.low_freq_factor;
  if (rope.enabled && !sane)
    throw_file_error(file, "the rotary position parameters are out of range");
}

}  // namespace tenfold
