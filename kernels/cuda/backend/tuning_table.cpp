#include "kernels/cuda/backend/tuning_table.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <sstream>
#include <string>

#include "kernels/error.h"

namespace tenfold::cuda {
namespace {

// Token counts that share an entry with the next of these.
constexpr std::array<int, 6> kTokenSteps = {4, 8, 16, 32, 64, 512};

int token_step(int tokens) {
  for (const int step : kTokenSteps) {
    if (tokens <= step) return step;
  }
  return kTokenSteps.back();
}

// The default is what tuning keeps where nothing is faster.
bool can_be(const Tuning& tuning, int tokens) {
  const std::vector<Tuning> all = tuning_candidates(tokens);
  return tuning == Tuning() || std::find(all.begin(), all.end(), tuning) != all.end();
}

}  // namespace

TuningTable::TuningTable(std::filesystem::path file) : file_(std::move(file)) {
  std::ifstream in(file_);
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    int format, min_kind, block, rows, cols, tokens;
    std::string equals;
    Tuning t;
    words >> format >> min_kind >> block >> rows >> cols >> tokens >> equals >> t.decode_warps >>
        t.tile_tokens >> t.panels >> t.ways >> t.stages;
    if (words && equals == "=" && can_be(t, tokens)) {
      best_[{format, min_kind, block, rows, cols, tokens}] = t;
    }
  }
}

TuningTable::Key TuningTable::key_of(std::span<const DeviceProduct> products) {
  const DeviceBand& band = products[0].bands[0];
  int rows = 0;
  for (const DeviceProduct& product : products) rows += product.rows;
  return {static_cast<int>(band.format),
          static_cast<int>(band.min_kind),
          band.block,
          rows,
          band.cols,
          token_step(products[0].x[0].tokens)};
}

const Tuning* TuningTable::find(std::span<const DeviceProduct> products) const {
  const auto found = best_.find(key_of(products));
  return found == best_.end() ? nullptr : &found->second;
}

void TuningTable::set(std::span<const DeviceProduct> products, const Tuning& tuning) {
  best_[key_of(products)] = tuning;
}

void TuningTable::save() {
  best_.merge(before_);
  if (file_.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(file_.parent_path(), error);
  const std::filesystem::path temporary = file_.string() + ".part";
  {
    std::ofstream out(temporary);
    for (const auto& [key, t] : best_) {
      const auto& [format, min_kind, block, rows, cols, tokens] = key;
      out << format << ' ' << min_kind << ' ' << block << ' ' << rows << ' ' << cols << ' '
          << tokens << " = " << t.decode_warps << ' ' << t.tile_tokens << ' ' << t.panels << ' '
          << t.ways << ' ' << t.stages << '\n';
    }
    if (!out.flush()) throw_error(ErrorCode::io, "cannot write {}", temporary.string());
  }
  std::filesystem::rename(temporary, file_, error);
  if (error) throw_error(ErrorCode::io, "cannot write {}: {}", file_.string(), error.message());
}

}  // namespace tenfold::cuda
