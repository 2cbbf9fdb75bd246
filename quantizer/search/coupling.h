#pragma once
// Channels inside a layer that can be reordered, scaled and turned while the layer computes the
// same: InvarExplore's FFN neurons (design/papers.md 1.2: W_up' = P S R W_up, W_down' = W_down R^T
// S^-1 P^T), the same for what lies between v and the attention's output and between q and k, and
// the scale of what a norm gives to the matrices that read it.
// Which moves are exact follows from the spec alone; tests/quantizer/coupling_test.cpp proves it.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "models/spec.h"
#include "quantizer/roles.h"

namespace tenfold {

enum class Exactness { none, approximate, exact };

struct Coupling {
  // Rows [first, first + channels) and their biases make the channels. They are multiplied by
  // scale^power: gate's, before its activation, by nothing; k's by the inverse of q's.
  struct Maker {
    LayerMatrix matrix;
    std::int64_t first = 0;
    int power = 1;
  };
  // Columns [first, first + channels) read them, and undo what the makers do.
  struct Reader {
    LayerMatrix matrix;
    std::int64_t first = 0;
  };
  std::string name;  // "ffn", "vo 2", "qk 2": of the third head of keys and values; "norm attn"
  std::int64_t channels = 0;
  std::vector<Maker> makers;
  std::optional<LayerNorm> norm;  // or this norm makes them
  std::vector<Reader> readers;
  Exactness permutation = Exactness::none, scale = Exactness::none, rotation = Exactness::none;
  // q and k under rotary positions: a pair (2k, 2k + 1) has one scale.
  bool scales_pairs = false;
};

// All couplings of a layer whose rows are in GGUF's order.
std::vector<Coupling> couplings_of(const DecoderSpec& spec);

// Whether neither makes rows of a matrix whose columns the other moves.
bool independent(const Coupling& a, const Coupling& b);

// Of one coupling, always of the source's channels: what is rounded is rounded to the source as
// this has it, however many changes led there.
struct ChannelTransform {
  std::vector<std::int32_t> order;  // the source's channel at each place
  std::vector<float> scale;         // > 0
  std::vector<float> angle;         // of the pairs (2k, 2k + 1)

  explicit ChannelTransform(std::int64_t channels);  // changes nothing
  bool operator==(const ChannelTransform&) const = default;
};

// scale^power, of Maker::power.
float power_of(float scale, int power) noexcept;

// The matrices, biases and norms of one layer as float32, [rows, cols]; absent ones are empty.
struct FloatLayer {
  struct Part {
    std::vector<float> weight, bias;
    std::int64_t rows = 0, cols = 0;
  };
  std::vector<Part> parts = std::vector<Part>(kLayerMatrices);  // by LayerMatrix
  std::array<Norm, 2> norms;                                    // by LayerNorm
  Part& operator[](LayerMatrix matrix) { return parts[static_cast<std::size_t>(matrix)]; }
  const Part& operator[](LayerMatrix matrix) const {
    return parts[static_cast<std::size_t>(matrix)];
  }
  Norm& operator[](LayerNorm norm) { return norms[static_cast<std::size_t>(norm)]; }
  const Norm& operator[](LayerNorm norm) const { return norms[static_cast<std::size_t>(norm)]; }
};

// out (allocated by the caller, as large): the maker's rows, the reader's columns, transformed.
void transform_rows(const FloatLayer::Part& from, const Coupling::Maker& maker,
                    const ChannelTransform& transform, FloatLayer::Part& out);
void transform_columns(const FloatLayer::Part& from, const Coupling::Reader& reader,
                       const ChannelTransform& transform, FloatLayer::Part& out);
void transform_norm(const Norm& from, const ChannelTransform& transform, Norm& out);
void transform(const FloatLayer& from, const Coupling& coupling, const ChannelTransform& transform,
               FloatLayer& out);

}  // namespace tenfold
