#pragma once
// Runs a program as a person or a script would: arguments, input, limits; output and exit code.

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tenfold::testing {

// Sanitizers make a program several times as slow.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr std::chrono::seconds kTimeAllowed{200};
#else
inline constexpr std::chrono::seconds kTimeAllowed{50};
#endif

struct ProcessOptions {
  std::optional<std::string> input = {};  // absent: /dev/null
  std::vector<std::pair<std::string, std::string>> environment = {};
  std::uint64_t max_file_bytes = 0;  // RLIMIT_FSIZE, a disk that is full; 0: none
  std::string stdout_path = {};      // instead of capturing
  std::chrono::seconds timeout = kTimeAllowed;
};

struct ProcessResult {
  int exit_code = -1;  // 128 + signal where one ended it
  std::string out, err;
};

ProcessResult run_process(const std::vector<std::string>& arguments,
                          const ProcessOptions& options = {});
// The tenfold binary of this build.
ProcessResult run_tenfold(std::vector<std::string> arguments, const ProcessOptions& options = {});

// A program on a terminal of its own.
class TerminalProcess {
 public:
  TerminalProcess(const std::vector<std::string>& arguments,
                  const std::vector<std::pair<std::string, std::string>>& environment);
  TerminalProcess(const TerminalProcess&) = delete;
  TerminalProcess& operator=(const TerminalProcess&) = delete;
  ~TerminalProcess();

  void type(std::string_view text);
  // Reads on until `text` appears after what earlier calls matched; false at the end or time-out.
  bool wait_for(std::string_view text, std::chrono::seconds timeout = std::chrono::seconds{40});
  int wait_exit();  // exit code; 128 + signal
  const std::string& screen() const noexcept { return screen_; }

 private:
  bool read_some(int timeout_ms);

  pid_t pid_ = -1;
  int fd_ = -1;
  std::string screen_;
  std::size_t matched_ = 0;
};

}  // namespace tenfold::testing
