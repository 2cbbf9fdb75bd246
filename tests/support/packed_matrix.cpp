#include "tests/support/packed_matrix.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <random>

#include "kernels/formats/codec.h"
#include "kernels/formats/plane.h"
#include "kernels/half.h"

namespace tenfold {
namespace {

class Filler {
 public:
  explicit Filler(bool extreme) : extreme_(extreme) {}

  void packed(Band& band, std::int64_t rows, std::vector<Buffer>& memory) {
    const PackedLayout layout =
        packed_layout(band.format, band.min_kind, rows, band.cols(), band.group);
    Buffer codes(static_cast<std::size_t>(layout.code_bytes));
    Buffer scale(static_cast<std::size_t>(layout.scale_bytes));
    Buffer min(static_cast<std::size_t>(layout.min_bytes));
    const int top = (1 << format_traits(band.format).bits) - 1;
    for (std::int64_t panel = 0; panel < layout.panels; ++panel) {
      const auto n =
          static_cast<int>(std::min<std::int64_t>(kPanelRows, rows - panel * kPanelRows));
      std::vector<std::uint8_t> panel_codes(static_cast<std::size_t>(n * band.cols()));
      for (std::uint8_t& code : panel_codes) code = code_up_to(top);
      pack_panel(band.format, panel_codes.data(), n, band.cols(),
                 codes.data() + panel * layout.panel_code_bytes);
    }
    const std::int64_t groups = layout.panels * layout.groups;
    for (std::int64_t i = 0; i < groups * kPanelRows; ++i) {
      const float value = extreme_ ? 0.25f : 0.01f + 0.1f * unit();
      scale.as<std::uint16_t>()[i] = f32_to_f16(value);
      if (band.min_kind == MinKind::f16) {
        min.as<std::uint16_t>()[i] = f32_to_f16(extreme_ ? -1.0f : unit() - 0.5f);
      }
    }
    for (std::int64_t g = 0; band.min_kind == MinKind::zero && g < groups; ++g) {
      std::uint8_t zeros[kPanelRows];
      for (std::uint8_t& zero : zeros) zero = extreme_ ? 0 : code_up_to(top);
      pack_zeros(band.format, zeros, min.data() + g * layout.panel_min_bytes / layout.groups);
    }
    band.codes = codes.data();
    band.scale = scale.data();
    band.min = layout.min_bytes == 0 ? nullptr : min.data();
    memory.push_back(std::move(codes));
    memory.push_back(std::move(scale));
    memory.push_back(std::move(min));
  }

  void floats(Band& band, std::int64_t rows, std::vector<Buffer>& memory) {
    const auto n = static_cast<std::size_t>(rows * band.cols());
    const int bytes = format_traits(band.format).bits / 8;
    Buffer elements(n * static_cast<std::size_t>(bytes));
    for (std::size_t i = 0; i < n; ++i) {
      const float value = unit() - 0.5f;
      if (band.format == Format::f32) elements.as<float>()[i] = value;
      if (band.format == Format::f16) elements.as<std::uint16_t>()[i] = f32_to_f16(value);
      if (band.format == Format::bf16) elements.as<std::uint16_t>()[i] = f32_to_bf16(value);
    }
    band.codes = elements.data();
    memory.push_back(std::move(elements));
  }

  float unit() { return static_cast<float>(random_() >> 8) * 0x1p-24f; }
  std::mt19937& random() { return random_; }

 private:
  std::uint8_t code_up_to(int top) {
    return static_cast<std::uint8_t>(extreme_ ? static_cast<std::uint32_t>(top)
                                              : random_() % (static_cast<std::uint32_t>(top) + 1));
  }

  bool extreme_;
  std::mt19937 random_{12345};
};

}  // namespace

PackedMatrix::PackedMatrix(std::int64_t rows, std::int64_t cols,
                           const std::vector<BandShape>& bands, bool mapped, bool extreme) {
  view.rows = rows;
  view.cols = cols;
  description = fmt::format("{}x{}", rows, cols);
  Filler fill(extreme);
  for (const BandShape& shape : bands) {
    Band& band = view.bands[static_cast<std::size_t>(view.n_bands++)];
    band.format = shape.format;
    band.min_kind = shape.min_kind;
    band.col_begin = shape.col_begin;
    band.col_end = shape.col_end;
    band.group = shape.group == 0 ? band.cols() : shape.group;
    if (is_packed(band.format)) {
      fill.packed(band, rows, memory_);
    } else {
      fill.floats(band, rows, memory_);
    }
    description += fmt::format(" {}/{}/{}[{},{})", format_traits(band.format).name,
                               *min_kind_name(static_cast<std::uint32_t>(band.min_kind)),
                               band.group, band.col_begin, band.col_end);
  }
  if (!mapped) return;
  for (std::int64_t c = 0; c < cols; ++c) {
    source_.push_back(static_cast<std::int32_t>(c));
    factor_.push_back(0.5f + fill.unit());
  }
  std::shuffle(source_.begin(), source_.end(), fill.random());
  view.map = {source_.data(), factor_.data()};
}

}  // namespace tenfold
