#include "tools/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>

namespace tenfold {
namespace {

constexpr double kWidth = 560, kHeight = 300;
constexpr int kMostTicks = 12;
constexpr double kLeft = 64, kRight = 16, kTop = 34, kBottom = 44;
constexpr std::array<const char*, 7> kColors = {"#2563eb", "#dc2626", "#059669", "#d97706",
                                                "#7c3aed", "#0891b2", "#db2777"};

const char* color_of(const Series& series) {
  return kColors[static_cast<std::size_t>(series.color) % kColors.size()];
}

// From values to a stretch of the page.
class Scale {
 public:
  Scale(const Axis& axis, double from, double to)
      : log_(axis.logarithmic), whole_(axis.whole), from_(from), to_(to) {}

  bool takes(double value) const { return std::isfinite(value) && (!log_ || value > 0); }
  void add(double value) {
    const double v = log_ ? std::log10(value) : value;
    low_ = empty_ ? v : std::min(low_, v);
    high_ = empty_ ? v : std::max(high_, v);
    empty_ = false;
  }
  void finish() {
    if (empty_) low_ = 0, high_ = 1;
    const double margin = high_ > low_ ? 0.05 * (high_ - low_) : log_ ? 0.1 : 0.5;
    low_ -= margin;
    high_ += margin;
  }
  double at(double value) const {
    const double v = log_ ? std::log10(value) : value;
    return from_ + (v - low_) / (high_ - low_) * (to_ - from_);
  }
  // Round numbers inside the range.
  std::vector<double> ticks() const {
    std::vector<double> result;
    if (log_ && high_ - low_ > 0.7) {
      for (double decade = std::floor(low_); decade <= high_; ++decade) {
        for (const double digit : {1.0, 2.0, 5.0}) {
          const double value = digit * std::pow(10.0, decade);
          if (std::log10(value) >= low_ && std::log10(value) <= high_) result.push_back(value);
        }
      }
      while (result.size() > 9) thin(result);
      return result;
    }
    const double low = log_ ? std::pow(10.0, low_) : low_;
    const double high = log_ ? std::pow(10.0, high_) : high_;
    double step = std::pow(10.0, std::floor(std::log10((high - low) / 4)));
    for (const double factor : {5.0, 2.0}) {
      if ((high - low) / (step * factor) >= 4) {
        step *= factor;
        break;
      }
    }
    if (whole_) step = std::max(1.0, std::round(step));
    const double first = std::ceil(low / step);
    for (int i = 0; i < kMostTicks && (first + i) * step <= high; ++i) {
      result.push_back((first + i) * step);
    }
    return result;
  }

 private:
  static void thin(std::vector<double>& values) {
    std::vector<double> kept;
    for (std::size_t i = 0; i < values.size(); i += 2) kept.push_back(values[i]);
    values = std::move(kept);
  }

  bool log_, whole_, empty_ = true;
  double from_, to_, low_ = 0, high_ = 0;
};

std::string frame(const std::string& title, double width, double height) {
  return fmt::format(
      "<svg viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" height=\"{1:.0f}\" role=\"img\" "
      "aria-label=\"{2}\">\n<text x=\"{3:.0f}\" y=\"18\" class=\"title\">{2}</text>\n",
      width, height, escape_html(title), kLeft);
}

void draw_axes(std::string& svg, const Axis& x, const Axis& y, const Scale& to_x,
               const Scale& to_y) {
  auto out = std::back_inserter(svg);
  for (const double tick : to_y.ticks()) {
    fmt::format_to(out,
                   "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"grid\"/>"
                   "<text x=\"{}\" y=\"{:.1f}\" class=\"tick\" text-anchor=\"end\">{:.6g}</text>\n",
                   kLeft, kWidth - kRight, to_y.at(tick), to_y.at(tick), kLeft - 6,
                   to_y.at(tick) + 4, tick);
  }
  for (const double tick : to_x.ticks()) {
    fmt::format_to(out,
                   "<text x=\"{:.1f}\" y=\"{}\" class=\"tick\" text-anchor=\"middle\">{:.6g}"
                   "</text>\n",
                   to_x.at(tick), kHeight - kBottom + 16, tick);
  }
  fmt::format_to(out,
                 "<text x=\"{}\" y=\"{}\" class=\"label\" text-anchor=\"middle\">{}</text>\n"
                 "<text transform=\"translate(14,{}) rotate(-90)\" class=\"label\" "
                 "text-anchor=\"middle\">{}</text>\n",
                 (kLeft + kWidth - kRight) / 2, kHeight - 8, escape_html(x.label),
                 (kTop + kHeight - kBottom) / 2, escape_html(y.label));
}

void draw_series(std::string& svg, const Series& series, const Scale& to_x, const Scale& to_y) {
  auto out = std::back_inserter(svg);
  std::string path;
  for (std::size_t i = 0; i < series.points.size(); ++i) {
    const auto [px, py] = series.points[i];
    if (!to_x.takes(px) || !to_y.takes(py)) continue;
    fmt::format_to(std::back_inserter(path), "{}{:.1f},{:.1f}", path.empty() ? "M" : "L",
                   to_x.at(px), to_y.at(py));
    const std::string label = i < series.labels.size() ? escape_html(series.labels[i]) : "";
    fmt::format_to(out,
                   "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\"><title>{} {:.5g}, "
                   "{:.5g}</title></circle>\n",
                   to_x.at(px), to_y.at(py), series.line ? 2 : 4, color_of(series),
                   label.empty() ? escape_html(series.name) : label, px, py);
    if (!label.empty() && series.labels_shown) {
      const bool left = to_x.at(px) > 0.7 * kWidth;
      fmt::format_to(out,
                     "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick\" text-anchor=\"{}\">{}"
                     "</text>\n",
                     to_x.at(px) + (left ? -7 : 7), to_y.at(py) - 4, left ? "end" : "start", label);
    }
  }
  if (series.line && !path.empty()) {
    fmt::format_to(out, "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.5\"{}/>\n",
                   path, color_of(series), series.dashed ? " stroke-dasharray=\"4 3\"" : "");
  }
}

}  // namespace

std::string escape_html(std::string_view text) {
  std::string result;
  for (const char c : text) {
    switch (c) {
      case '&':
        result += "&amp;";
        break;
      case '<':
        result += "&lt;";
        break;
      case '>':
        result += "&gt;";
        break;
      case '"':
        result += "&quot;";
        break;
      default:
        result += c;
    }
  }
  return result;
}

std::string xy_chart(const std::string& title, const Axis& x, const Axis& y,
                     const std::vector<Series>& series) {
  Scale to_x(x, kLeft, kWidth - kRight);
  Scale to_y(y, kHeight - kBottom, kTop);
  for (const Series& one : series) {
    for (const auto& [px, py] : one.points) {
      if (!to_x.takes(px) || !to_y.takes(py)) continue;
      to_x.add(px);
      to_y.add(py);
    }
  }
  to_x.finish();
  to_y.finish();
  std::string svg = frame(title, kWidth, kHeight);
  draw_axes(svg, x, y, to_x, to_y);
  double legend = kWidth - kRight;
  for (auto one = series.rbegin(); one != series.rend(); ++one) {
    draw_series(svg, *one, to_x, to_y);
    if (one->name.empty() || series.size() < 2) continue;
    fmt::format_to(std::back_inserter(svg),
                   "<text x=\"{:.0f}\" y=\"18\" class=\"tick\" text-anchor=\"end\" fill=\"{}\" "
                   "style=\"fill:{}\">{}{}</text>\n",
                   legend, color_of(*one), color_of(*one), one->dashed ? "- - " : "",
                   escape_html(one->name));
    legend -= 14 + 6.5 * static_cast<double>(one->name.size() + (one->dashed ? 4 : 0));
  }
  return svg + "</svg>\n";
}

std::string heat_map(const std::string& title, const std::vector<std::string>& rows,
                     const std::vector<std::string>& columns,
                     const std::vector<std::vector<double>>& cells) {
  constexpr double kCell = 24;
  const double width = kLeft + kRight + kCell * static_cast<double>(columns.size());
  const double height = kTop + 20 + kCell * static_cast<double>(rows.size());
  double most = 1e-9;
  for (const auto& row : cells) {
    for (const double value : row) most = std::max(most, value);
  }
  std::string svg = frame(title, std::max(width, 400.0), height);
  auto out = std::back_inserter(svg);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const double top = kTop + kCell * static_cast<double>(r);
    fmt::format_to(out, "<text x=\"{}\" y=\"{}\" class=\"tick\" text-anchor=\"end\">{}</text>\n",
                   kLeft - 6, top + 16, escape_html(rows[r]));
    for (std::size_t c = 0; c < columns.size(); ++c) {
      const double value = cells[r][c];
      if (value < 0) continue;
      fmt::format_to(out,
                     "<rect x=\"{0}\" y=\"{1}\" width=\"{2}\" height=\"{2}\" fill=\"#2563eb\" "
                     "fill-opacity=\"{3:.2f}\"><title>{4} {5}: {6:.3f}</title></rect>"
                     "<text x=\"{7}\" y=\"{8}\" class=\"cell\" text-anchor=\"middle\">{9:.2g}"
                     "</text>\n",
                     kLeft + kCell * static_cast<double>(c), top, kCell - 2,
                     0.12 + 0.7 * value / most, escape_html(rows[r]), escape_html(columns[c]),
                     value, kLeft + kCell * (static_cast<double>(c) + 0.5) - 1, top + 15, value);
    }
  }
  for (std::size_t c = 0; c < columns.size(); ++c) {
    fmt::format_to(out, "<text x=\"{}\" y=\"{}\" class=\"tick\" text-anchor=\"middle\">{}</text>\n",
                   kLeft + kCell * (static_cast<double>(c) + 0.5) - 1, height - 6,
                   escape_html(columns[c]));
  }
  return svg + "</svg>\n";
}

}  // namespace tenfold
