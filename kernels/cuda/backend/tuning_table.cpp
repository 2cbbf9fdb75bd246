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
constexpr std::array<int, 4> kTokenSteps = {kDecodeTokens, 16, 64, 512};

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

TuningTable::Key TuningTable::key_of(const DeviceProduct& product) {
  const DeviceBand& band = product.bands[0];
  return {static_cast<int>(band.format),
          static_cast<int>(band.min_kind),
          band.block,
          product.rows,
          band.cols,
          token_step(product.x[0].tokens)};
}

const Tuning* TuningTable::find(const DeviceProduct& product) const {
  const auto found = best_.find(key_of(product));
  return found == best_.end() ? nullptr : &found->second;
}

void TuningTable::set(const DeviceProduct& product, const Tuning& tuning) {
  best_[key_of(product)] = tuning;
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

std::vector<Tuning> tuning_candidates(int tokens) {
  std::vector<Tuning> result;
  for (const int stages : {2, 3}) {
    if (tokens <= kDecodeTokens) {
      for (const int warps : {4, 8, 16}) result.push_back({warps, 0, 0, 0, stages});
      continue;
    }
    for (const int tile : {16, 64}) {
      for (const int panels : {1, 2, 4, 8}) {
        for (const int ways : {1, 4}) {
          if (panels * ways <= (tile == 64 ? 8 : 16)) {
            result.push_back({0, tile, panels, ways, stages});
          }
        }
      }
    }
  }
  return result;
}

}  // namespace tenfold::cuda
