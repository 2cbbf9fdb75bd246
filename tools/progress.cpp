#include "tools/progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace tenfold {
namespace {

constexpr int kBarWidth = 24;
constexpr std::chrono::milliseconds kTerminalInterval{100};
constexpr std::chrono::seconds kPlainInterval{10};

bool smart_terminal() {
  const char* term = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) != 0 && term != nullptr && std::string_view(term) != "dumb";
}

std::string duration_text(double seconds) {
  const auto s = std::lround(seconds);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

Progress::Progress(std::string task, bool quiet)
    : task_(std::move(task)),
      quiet_(quiet),
      terminal_(smart_terminal()),
      start_(Clock::now()),
      shown_(start_) {}

Progress::~Progress() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void Progress::update(std::uint64_t done, std::uint64_t total, std::string_view detail) {
  if (quiet_ || total == 0) return;
  const auto now = Clock::now();
  if (terminal_ ? now - shown_ < kTerminalInterval : now - shown_ < kPlainInterval) return;
  shown_ = now;
  const double share = std::min(1.0, static_cast<double>(done) / static_cast<double>(total));
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const std::string left = share > 0 ? duration_text(elapsed * (1 - share) / share) : "?";
  const std::string_view gap = detail.empty() ? "" : ", ";
  if (terminal_) {
    const auto filled = static_cast<std::size_t>(share * kBarWidth);
    const std::string bar = std::string(filled, '#') + std::string(kBarWidth - filled, '.');
    fmt::print(stderr, "\r\033[K{} [{}] {:.0f} %, {} left{}{}", task_, bar, 100 * share, left, gap,
               detail);
    std::fflush(stderr);
    drawn_ = true;
  } else {
    fmt::print(stderr, "{}: {:.0f} %, {} left{}{}\n", task_, 100 * share, left, gap, detail);
  }
}

}  // namespace tenfold
