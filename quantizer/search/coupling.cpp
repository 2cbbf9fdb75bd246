#include "quantizer/search/coupling.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tenfold {
namespace {

Coupling ffn(const DecoderSpec& spec) {
  Coupling coupling{"ffn", spec.ffn, {{LayerMatrix::up, 0, 1}}, {}, {{LayerMatrix::down, 0}}};
  coupling.permutation = coupling.scale = Exactness::exact;
  if (spec.gated_mlp) {
    coupling.makers.push_back({LayerMatrix::gate, 0, 0});
  } else {
    coupling.rotation = Exactness::approximate;  // it does not commute with ReLU
  }
  return coupling;
}

// Attention mixes tokens and not channels, so between v and the output everything linear is exact.
// All query heads that share a value head read it alike.
Coupling value_output(const DecoderSpec& spec, std::int64_t head) {
  const std::int64_t hd = spec.head_dim;
  const std::int64_t shared = spec.heads / spec.kv_heads;
  Coupling coupling{fmt::format("vo {}", head), hd, {{LayerMatrix::v, head * hd, 1}}, {}, {}};
  for (std::int64_t q = head * shared; q < (head + 1) * shared; ++q) {
    coupling.readers.push_back({LayerMatrix::output, q * hd});
  }
  coupling.permutation = coupling.scale = coupling.rotation = Exactness::exact;
  return coupling;
}

// The score is q k^T: what turns both alike, or divides one by what it multiplies the other with,
// leaves it. Rotary positions turn the pairs of (2i, 2i + 1) too, which commutes with turning and
// with one scale for a pair; pairs have their own frequencies and stay in place.
Coupling query_key(const DecoderSpec& spec, std::int64_t head) {
  const std::int64_t hd = spec.head_dim;
  const std::int64_t shared = spec.heads / spec.kv_heads;
  Coupling coupling{fmt::format("qk {}", head), hd, {{LayerMatrix::k, head * hd, -1}}, {}, {}};
  for (std::int64_t q = head * shared; q < (head + 1) * shared; ++q) {
    coupling.makers.push_back({LayerMatrix::q, q * hd, 1});
  }
  coupling.scale = coupling.rotation = Exactness::exact;
  coupling.permutation = spec.rope.enabled ? Exactness::none : Exactness::exact;
  coupling.scales_pairs = spec.rope.enabled;
  return coupling;
}

Coupling norm_readers(LayerNorm norm, const DecoderSpec& spec) {
  Coupling coupling{norm == LayerNorm::attn ? "norm attn" : "norm ffn", spec.dim, {}, norm, {}};
  if (norm == LayerNorm::attn) {
    coupling.readers = {{LayerMatrix::q, 0}, {LayerMatrix::k, 0}, {LayerMatrix::v, 0}};
  } else {
    coupling.readers = {{LayerMatrix::up, 0}};
    if (spec.gated_mlp) coupling.readers.push_back({LayerMatrix::gate, 0});
  }
  coupling.scale = Exactness::exact;
  return coupling;
}

// What stands at a place: a mixture of two of the source's channels, scaled.
struct Place {
  std::size_t first, second;
  float of_first, of_second, scale;

  float mix(float a, float b) const {
    return (of_second == 0 ? a * of_first : a * of_first + b * of_second) * scale;
  }
};

std::vector<Place> places_of(const ChannelTransform& transform, int power) {
  std::vector<Place> places;
  for (const std::int32_t channel : transform.order) {
    const auto source = static_cast<std::size_t>(channel);
    const std::size_t pair = source / 2;
    Place& place = places.emplace_back(
        Place{source, source, 1.0f, 0.0f, power_of(transform.scale[source], power)});
    if (pair >= transform.angle.size() || transform.angle[pair] == 0) continue;
    const float cosine = std::cos(transform.angle[pair]);
    const float sine = std::sin(transform.angle[pair]);
    place.first = 2 * pair;
    place.second = 2 * pair + 1;
    place.of_first = source % 2 == 0 ? cosine : sine;
    place.of_second = source % 2 == 0 ? -sine : cosine;
  }
  return places;
}

}  // namespace

float power_of(float scale, int power) noexcept {
  if (power == 0) return 1.0f;
  return power > 0 ? scale : 1.0f / scale;
}

std::vector<Coupling> couplings_of(const DecoderSpec& spec) {
  std::vector<Coupling> couplings{ffn(spec)};
  for (std::int64_t head = 0; head < spec.kv_heads; ++head) {
    couplings.push_back(value_output(spec, head));
  }
  for (std::int64_t head = 0; head < spec.kv_heads; ++head) {
    couplings.push_back(query_key(spec, head));
  }
  if (spec.post_norm) return couplings;  // a norm's output is the residual stream itself
  for (const LayerNorm norm : {LayerNorm::attn, LayerNorm::ffn}) {
    couplings.push_back(norm_readers(norm, spec));
  }
  return couplings;
}

bool independent(const Coupling& a, const Coupling& b) {
  const auto meets = [](const Coupling& making, const Coupling& reading) {
    return std::ranges::any_of(making.makers, [&](const Coupling::Maker& maker) {
      return std::ranges::any_of(reading.readers, [&](const Coupling::Reader& reader) {
        return reader.matrix == maker.matrix;
      });
    });
  };
  return !meets(a, b) && !meets(b, a);
}

ChannelTransform::ChannelTransform(std::int64_t channels)
    : order(static_cast<std::size_t>(channels)),
      scale(static_cast<std::size_t>(channels), 1.0f),
      angle(static_cast<std::size_t>(channels / 2)) {
  std::iota(order.begin(), order.end(), 0);
}

void transform_rows(const FloatLayer::Part& from, const Coupling::Maker& maker,
                    const ChannelTransform& transform, FloatLayer::Part& out) {
  const auto cols = static_cast<std::size_t>(from.cols);
  auto row = static_cast<std::size_t>(maker.first);
  const float* weight = from.weight.data() + row * cols;
  const float* bias = from.bias.empty() ? nullptr : from.bias.data() + row;
  for (const Place& place : places_of(transform, maker.power)) {
    const float* a = weight + place.first * cols;
    const float* b = weight + place.second * cols;
    float* to = out.weight.data() + row * cols;
    for (std::size_t c = 0; c < cols; ++c) to[c] = place.mix(a[c], b[c]);
    if (bias != nullptr) out.bias[row] = place.mix(bias[place.first], bias[place.second]);
    ++row;
  }
}

void transform_columns(const FloatLayer::Part& from, const Coupling::Reader& reader,
                       const ChannelTransform& transform, FloatLayer::Part& out) {
  const std::vector<Place> places = places_of(transform, -1);
  for (std::int64_t row = 0; row < from.rows; ++row) {
    const std::int64_t begin = row * from.cols + reader.first;
    const float* w = from.weight.data() + begin;
    float* to = out.weight.data() + begin;
    for (const Place& place : places) *to++ = place.mix(w[place.first], w[place.second]);
  }
}

void transform_norm(const Norm& from, const ChannelTransform& transform, Norm& out) {
  for (std::size_t c = 0; c < from.weight.size(); ++c) {
    out.weight[c] = from.weight[c] * transform.scale[c];
    if (!from.bias.empty()) out.bias[c] = from.bias[c] * transform.scale[c];
  }
}

void transform(const FloatLayer& from, const Coupling& coupling, const ChannelTransform& transform,
               FloatLayer& out) {
  for (const Coupling::Maker& maker : coupling.makers) {
    transform_rows(from[maker.matrix], maker, transform, out[maker.matrix]);
  }
  if (coupling.norm) transform_norm(from[*coupling.norm], transform, out[*coupling.norm]);
  for (const Coupling::Reader& reader : coupling.readers) {
    transform_columns(from[reader.matrix], reader, transform, out[reader.matrix]);
  }
}

}  // namespace tenfold
