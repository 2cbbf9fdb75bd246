#include "tests/support/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <thread>

namespace tenfold::testing {
namespace {

using Clock = std::chrono::steady_clock;

void set_environment(const std::vector<std::pair<std::string, std::string>>& environment) {
  for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
}

[[noreturn]] void execute(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

int decode_status(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

[[noreturn]] void run_child(const std::vector<std::string>& arguments,
                            const ProcessOptions& options, int in, int out, int err) {
  if (!options.input) in = ::open("/dev/null", O_RDONLY);
  if (!options.stdout_path.empty()) out = ::open(options.stdout_path.c_str(), O_WRONLY);
  ::dup2(in, STDIN_FILENO);
  ::dup2(out, STDOUT_FILENO);
  ::dup2(err, STDERR_FILENO);
  if (options.max_file_bytes > 0) {
    const rlimit limit{options.max_file_bytes, options.max_file_bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  set_environment(options.environment);
  execute(arguments);
}

// Reads both pipes until they close or the time is up.
void collect(std::array<pollfd, 2> fds, ProcessResult& result, Clock::time_point deadline) {
  std::array<char, 4096> buffer;
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0 || ::poll(fds.data(), fds.size(), static_cast<int>(left.count())) <= 0) {
      return;
    }
    for (std::size_t i = 0; i < fds.size(); ++i) {
      if (fds[i].fd < 0 || fds[i].revents == 0) continue;
      const ssize_t n = ::read(fds[i].fd, buffer.data(), buffer.size());
      if (n <= 0) {
        fds[i].fd = -1;
      } else {
        (i == 0 ? result.out : result.err).append(buffer.data(), static_cast<std::size_t>(n));
      }
    }
  }
}

}  // namespace

ProcessResult run_process(const std::vector<std::string>& arguments,
                          const ProcessOptions& options) {
  std::array<int, 2> in{}, out{}, err{};
  ProcessResult result;
  if (::pipe2(in.data(), O_CLOEXEC) != 0 || ::pipe2(out.data(), O_CLOEXEC) != 0 ||
      ::pipe2(err.data(), O_CLOEXEC) != 0) {
    ADD_FAILURE() << "no pipes";
    return result;
  }
  const pid_t pid = ::fork();
  if (pid == 0) run_child(arguments, options, in[0], out[1], err[1]);
  ::close(in[0]);
  ::close(out[1]);
  ::close(err[1]);
  if (options.input) {  // tests' inputs fit in a pipe
    EXPECT_EQ(::write(in[1], options.input->data(), options.input->size()),
              static_cast<ssize_t>(options.input->size()));
  }
  ::close(in[1]);
  collect({pollfd{out[0], POLLIN, 0}, pollfd{err[0], POLLIN, 0}}, result,
          Clock::now() + options.timeout);
  ::close(out[0]);
  ::close(err[0]);
  int status = 0;
  if (::waitpid(pid, &status, WNOHANG) == 0) {
    ::usleep(200'000);
    if (::waitpid(pid, &status, WNOHANG) == 0) {
      ADD_FAILURE() << "still running after the time allowed";
      ::kill(pid, SIGKILL);
      ::waitpid(pid, &status, 0);
    }
  }
  result.exit_code = decode_status(status);
  return result;
}

ProcessResult run_tenfold(std::vector<std::string> arguments, const ProcessOptions& options) {
  arguments.insert(arguments.begin(), TENFOLD_BINARY);
  return run_process(arguments, options);
}

TerminalProcess::TerminalProcess(
    const std::vector<std::string>& arguments,
    const std::vector<std::pair<std::string, std::string>>& environment) {
  const winsize size{40, 120, 0, 0};
  pid_ = ::forkpty(&fd_, nullptr, nullptr, &size);
  if (pid_ == 0) {
    set_environment(environment);
    execute(arguments);
  }
  EXPECT_GT(pid_, 0);
}

TerminalProcess::~TerminalProcess() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(fd_);
}

void TerminalProcess::type(std::string_view text) {
  // A person's pause: libedit prints the prompt just before it takes the terminal over, and keys
  // that come in between are the terminal driver's.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(::write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
}

bool TerminalProcess::read_some(int timeout_ms) {
  pollfd poll_fd{fd_, POLLIN, 0};
  if (::poll(&poll_fd, 1, timeout_ms) <= 0) return false;
  std::array<char, 4096> buffer;
  const ssize_t n = ::read(fd_, buffer.data(), buffer.size());
  if (n <= 0) return false;
  screen_.append(buffer.data(), static_cast<std::size_t>(n));
  return true;
}

bool TerminalProcess::wait_for(std::string_view text, std::chrono::seconds timeout) {
  const auto deadline = Clock::now() + timeout;
  while (true) {
    const std::size_t at = screen_.find(text, matched_);
    if (at != std::string::npos) {
      matched_ = at + text.size();
      return true;
    }
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0 || !read_some(static_cast<int>(left.count()))) return false;
  }
}

int TerminalProcess::wait_exit() {
  while (read_some(10'000)) {
  }
  int status = 0;
  for (int i = 0; i < 100; ++i) {
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      pid_ = -1;
      return decode_status(status);
    }
    ::usleep(50'000);
  }
  ADD_FAILURE() << "still running; the screen shows:\n" << screen_;
  return -1;
}

}  // namespace tenfold::testing
