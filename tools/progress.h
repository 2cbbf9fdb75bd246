#pragma once
// How far a long task is, on standard error: a bar with the time left on a terminal, a plain line
// now and then elsewhere, nothing where quiet.

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace tenfold {

class Progress {
 public:
  Progress(std::string task, bool quiet);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();  // leaves the cursor on a clean line

  // detail: a few words such as the running figure.
  void update(std::uint64_t done, std::uint64_t total, std::string_view detail = {});

 private:
  using Clock = std::chrono::steady_clock;
  std::string task_;
  bool quiet_, terminal_;
  Clock::time_point start_, shown_;
  bool drawn_ = false;
};

}  // namespace tenfold
