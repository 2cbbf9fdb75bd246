// CpuBackend::linear: products that share an input run as one parallel region over chunks of their
// rows. For packed weights the input is rounded to int8 before it, once for each input map and cut
// into blocks.

#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/formats/plane.h"

namespace tenfold {
namespace {

constexpr std::size_t kChunkBytes = 256u
                                    << 10;  // of weights a thread takes at a time when decoding
constexpr std::int64_t kRowStep = kPackedPanels * kPanelRows;
constexpr std::int64_t kPrepareAlone = 4;  // tokens up to which the input is prepared by one thread

WeightType weight_type(Format format) {
  return format == Format::f32   ? WeightType::f32
         : format == Format::f16 ? WeightType::f16
                                 : WeightType::bf16;
}

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

constexpr std::int64_t kFloatRowStep = 4;  // rows of a float tile

// Rows a thread takes at a time: whole tiles, few enough that all threads find work.
std::int64_t rows_per_chunk(const MatrixView& weight, std::int64_t tokens, int threads) {
  if (tokens > 1) return kRowStep;
  const std::size_t row_bytes =
      std::max<std::size_t>(1, weight.bytes() / static_cast<std::size_t>(weight.rows));
  const auto in_cache = static_cast<std::int64_t>(kChunkBytes / row_bytes);
  const std::int64_t share = weight.rows / (4 * threads);
  const bool packed = is_packed(weight.bands.front().format);
  const std::int64_t step = packed || weight.n_bands > 1 ? kRowStep : kFloatRowStep;
  return std::max(step, round_up(std::min(in_cache, share), step));
}

PackedBand packed_band(const Band& band, std::int64_t rows) {
  PackedBand result;
  const PackedLayout layout =
      packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
  result.format = static_cast<int>(band.format);
  result.min_kind = static_cast<int>(band.min_kind);
  result.cols = band.cols();
  result.groups = layout.groups;
  result.codes = band.codes;
  result.scale = band.scale;
  result.min = band.min;
  result.panel_code_bytes = layout.panel_code_bytes;
  result.panel_min_bytes = layout.panel_min_bytes;
  result.input.col_begin = band.col_begin;
  result.input.cols = band.cols();
  result.input.block = std::min(band.group, kMaxActivationBlock);
  // A group longer than a block is whole blocks: 128 columns, but for the last.
  result.group = round_up(band.group, result.input.block);
  return result;
}

bool same_cut(const PreparedBand& a, const PreparedBand& b) {
  return a.col_begin == b.col_begin && a.cols == b.cols && a.block == b.block;
}

}  // namespace

// The prepared input of these bands, shared with an earlier part where map and cut agree; fills in
// where each band's activations begin.
const PreparedInput& CpuBackend::prepared_for(const MatrixView& weight, std::int64_t tokens,
                                              std::span<PackedBand> bands) {
  for (std::size_t i = 0; i < n_prepared_; ++i) {
    const Prepared& p = prepared_[i];
    bool same = p.map == weight.map && static_cast<std::size_t>(p.n_bands) == bands.size();
    for (std::size_t b = 0; same && b < bands.size(); ++b) {
      same = same_cut(p.bands[b], bands[b].input);
    }
    if (!same) continue;
    for (std::size_t b = 0; b < bands.size(); ++b) bands[b].input = p.bands[b];
    return p.input;
  }
  Prepared& p = prepared_[n_prepared_++];
  p.map = weight.map;
  p.n_bands = static_cast<int>(bands.size());
  p.input.tokens = tokens;
  p.input.planes = 2;
  p.input.outlier = outlier_threshold(activations_);
  p.input.dwords = p.input.blocks = 0;
  for (std::size_t b = 0; b < bands.size(); ++b) {
    PreparedBand& input = bands[b].input;
    input.dword = p.input.dwords;
    input.first_block = p.input.blocks;
    p.input.dwords += round_up(input.cols, kBlockCols) / 4;
    p.input.blocks += (input.cols + input.block - 1) / input.block;
    p.bands[b] = input;
  }
  const auto copies = static_cast<std::size_t>(tokens * p.input.planes);
  p.input.codes = p.codes.get<std::int8_t>(copies * static_cast<std::size_t>(p.input.dwords) * 4);
  p.input.scale = p.scale.get<float>(copies * static_cast<std::size_t>(p.input.blocks));
  p.input.sum = p.sum.get<float>(copies * static_cast<std::size_t>(p.input.blocks));
  p.input.second = p.second.get<std::uint8_t>(static_cast<std::size_t>(tokens * p.input.blocks));
  return p.input;
}

// For float bands of a matrix with an input map, which are rare.
const float* CpuBackend::mapped_input(const MatrixView& weight, const float* x, std::int64_t ldx,
                                      std::int64_t tokens) {
  float* mapped = mapped_[n_mapped_++].get<float>(static_cast<std::size_t>(tokens * weight.cols));
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t c = 0; c < weight.cols; ++c) {
      const std::int64_t from = weight.map.source == nullptr ? c : weight.map.source[c];
      const float factor = weight.map.factor == nullptr ? 1.0f : weight.map.factor[c];
      mapped[t * weight.cols + c] = x[t * ldx + from] * factor;
    }
  }
  return mapped;
}

void CpuBackend::plan_part(const Linear& linear, const float* x, std::int64_t ldx,
                           std::int64_t tokens, Part& part) {
  const MatrixView& weight = linear.weight;
  part.rows = weight.rows;
  part.chunk_rows = rows_per_chunk(weight, tokens, pool_.size());
  part.n_runs = 0;
  std::size_t n_packed = 0;
  for (const Band& band : weight.all_bands()) {
    if (is_packed(band.format)) part.bands[n_packed++] = packed_band(band, weight.rows);
  }
  const PreparedInput* prepared =
      n_packed == 0 ? nullptr : &prepared_for(weight, tokens, {part.bands.data(), n_packed});
  const float* floats = x;
  std::int64_t ld_floats = ldx;
  const bool mapped = weight.map.source != nullptr || weight.map.factor != nullptr;
  if (mapped && n_packed != static_cast<std::size_t>(weight.n_bands)) {
    floats = mapped_input(weight, x, ldx, tokens);
    ld_floats = weight.cols;
  }
  std::size_t next_packed = 0;
  for (const Band& band : weight.all_bands()) {
    const bool packed = is_packed(band.format);
    if (packed && part.n_runs > 0 && part.runs[static_cast<std::size_t>(part.n_runs - 1)].packed) {
      ++part.runs[static_cast<std::size_t>(part.n_runs - 1)].args.n_bands;
      ++next_packed;
      continue;
    }
    const bool first = part.n_runs == 0;
    Run& run = part.runs[static_cast<std::size_t>(part.n_runs++)];
    run.packed = packed;
    const float* bias = first ? linear.bias : nullptr;
    const bool accumulate = linear.accumulate || !first;
    if (packed) {
      run.args = {&part.bands[next_packed++],
                  1,
                  weight.rows,
                  bias,
                  *prepared,
                  linear.y,
                  linear.ldy,
                  accumulate};
    } else {
      run.plain = {band.codes,  weight_type(band.format),
                   weight.rows, band.cols(),
                   bias,        floats + band.col_begin,
                   ld_floats,   tokens,
                   linear.y,    linear.ldy,
                   accumulate};
    }
  }
}

void CpuBackend::prepare_inputs(const float* x, std::int64_t ldx, std::int64_t tokens) {
  for (std::size_t i = 0; i < n_prepared_; ++i) {
    const Prepared& p = prepared_[i];
    const PrepareArgs args{x, ldx, p.map.source, p.map.factor, p.bands.data(), p.n_bands, p.input};
    if (tokens <= kPrepareAlone) {
      for (std::int64_t t = 0; t < tokens;) {
        const int width = kernels_->packed_tile(tokens - t);
        kernels_->prepare(args, t, width);
        t += width;
      }
      continue;
    }
    // All tiles but the last few are as wide as the first.
    const int widest = kernels_->packed_tile(tokens);
    const std::int64_t whole = tokens / widest;
    pool_.run(static_cast<int>(whole + 1), [&](int chunk, int) {
      std::int64_t t = std::int64_t{chunk} * widest;
      const std::int64_t end = chunk < whole ? t + widest : tokens;
      while (t < end) {
        const int width = kernels_->packed_tile(tokens - t);
        kernels_->prepare(args, t, width);
        t += width;
      }
    });
  }
}

void CpuBackend::run_rows(const Part& part, std::int64_t begin, std::int64_t end, int thread) {
  Scratch& scratch = scratch_[static_cast<std::size_t>(thread)];
  for (int i = 0; i < part.n_runs; ++i) {
    const Run& run = part.runs[static_cast<std::size_t>(i)];
    if (run.packed) {
      const std::int64_t floats = kernels_->packed_scratch(run.args.x.tokens);
      kernels_->linear_packed(run.args, begin / kPanelRows, (end + kPanelRows - 1) / kPanelRows,
                              scratch.get<float>(static_cast<std::size_t>(floats)));
    } else {
      const std::int64_t floats = kernels_->linear_scratch(run.plain.cols);
      kernels_->linear(run.plain, begin, end, scratch.get<float>(static_cast<std::size_t>(floats)));
    }
  }
}

bool CpuBackend::taken_by_device(const Linear& part, const float* x, std::int64_t ldx,
                                 std::int64_t tokens) {
  if (device_ == nullptr) return false;
  Linear product = part;
  product.bias = nullptr;
  if (!device_->host_linear(product, x, ldx, tokens)) return false;
  if (part.bias == nullptr) return true;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t r = 0; r < part.weight.rows; ++r) part.y[t * part.ldy + r] += part.bias[r];
  }
  return true;
}

void CpuBackend::linear(std::span<const Linear> parts, const float* x, std::int64_t ldx,
                        std::int64_t tokens) {
  if (parts.size() == 1 && taken_by_device(parts.front(), x, ldx, tokens)) return;
  n_prepared_ = n_mapped_ = 0;
  int chunks = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    Part& part = parts_[i];
    plan_part(parts[i], x, ldx, tokens, part);
    part.first_chunk = chunks;
    chunks += static_cast<int>((part.rows + part.chunk_rows - 1) / part.chunk_rows);
  }
  prepare_inputs(x, ldx, tokens);
  pool_.run(chunks, [&](int chunk, int thread) {
    std::size_t i = parts.size() - 1;
    while (chunk < parts_[i].first_chunk) --i;
    const Part& part = parts_[i];
    const std::int64_t begin = (chunk - part.first_chunk) * part.chunk_rows;
    run_rows(part, begin, std::min(part.rows, begin + part.chunk_rows), thread);
  });
}

}  // namespace tenfold
