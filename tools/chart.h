#pragma once
// Small SVG charts. Text is escaped; values that are not finite or, on a logarithmic axis, not
// positive are left out.

#include <string>
#include <vector>

namespace tenfold {

struct Axis {
  std::string label;
  bool logarithmic = false;
  bool whole = false;  // ticks at whole numbers only
};

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;
  bool line = true;
  bool dashed = false;
  int color = 0;
  std::vector<std::string> labels;  // of the points; may be empty
  bool labels_shown = true;         // or only where one points at them
};

std::string escape_html(std::string_view text);
std::string xy_chart(const std::string& title, const Axis& x, const Axis& y,
                     const std::vector<Series>& series);

// Cells [rows][columns]; a negative value is an empty cell. Darker is more.
std::string heat_map(const std::string& title, const std::vector<std::string>& rows,
                     const std::vector<std::string>& columns,
                     const std::vector<std::vector<double>>& cells);

}  // namespace tenfold
