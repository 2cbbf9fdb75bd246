#include "tools/line_editor.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>
#include <string>

namespace tenfold {
namespace {

// Echoes what read() returns, on a terminal of its own.
class Session {
 public:
  explicit Session(const std::string& history_file) {
    pid_ = forkpty(&master_, nullptr, nullptr, nullptr);
    if (pid_ != 0) return;
    setenv("TERM", "vt100", 1);
    LineEditor editor("> ", history_file);
    std::string line;
    for (auto status = LineEditor::Status::line; status != LineEditor::Status::end;) {
      status = editor.read(line);
      for (char& c : line)
        if (c == '\n') c = '/';
      const char* name = status == LineEditor::Status::line          ? "line"
                         : status == LineEditor::Status::interrupted ? "interrupted"
                                                                     : "end";
      std::printf("[%s:%s]\n", name, line.c_str());
      std::fflush(stdout);
    }
    _exit(0);
  }
  ~Session() {
    // A session that did not get to its end would wait for keys for ever.
    if (::testing::Test::HasFailure()) kill(pid_, SIGKILL);
    int status = 0;
    waitpid(pid_, &status, 0);
    close(master_);  // not earlier: it hangs up on the session
    EXPECT_TRUE(WIFEXITED(status)) << "the editor died of signal " << WTERMSIG(status);
  }

  void type(const std::string& keys) {
    ASSERT_EQ(write(master_, keys.data(), keys.size()), static_cast<ssize_t>(keys.size()));
  }
  // Waits for a prompt and until keys are no signals any more: libedit prompts first.
  bool prompts(const std::string& prompt) {
    if (!shows(prompt)) return false;
    termios mode{};
    for (int i = 0; i < 500 && tcgetattr(master_, &mode) == 0; ++i) {
      if (!(mode.c_lflag & (ICANON | ISIG))) return true;
      usleep(10'000);
    }
    ADD_FAILURE() << "the terminal stays in line mode";
    return false;
  }
  // Reads until `text` was shown.
  bool shows(const std::string& text) {
    while (seen_.find(text) == std::string::npos) {
      pollfd ready{master_, POLLIN, 0};
      char buffer[512];
      if (poll(&ready, 1, 5000) <= 0) break;
      const ssize_t count = read(master_, buffer, sizeof buffer);
      if (count <= 0) break;
      seen_.append(buffer, static_cast<std::size_t>(count));
    }
    const std::size_t at = seen_.find(text);
    if (at == std::string::npos) {
      ADD_FAILURE() << "no \"" << text << "\" in \"" << seen_ << '"';
      return false;
    }
    seen_.erase(0, at + text.size());
    return true;
  }

 private:
  int master_ = -1;
  pid_t pid_ = -1;
  std::string seen_;
};

TEST(LineEditor, EditsOnATerminal) {
  const std::string file = ::testing::TempDir() + "line_editor/deep/history";
  std::filesystem::remove_all(::testing::TempDir() + "line_editor");
  {
    Session session(file);
    ASSERT_TRUE(session.prompts("> "));
    session.type("held\bp h\u00e9\n");
    ASSERT_TRUE(session.shows("[line:help h\u00e9]"));
    ASSERT_TRUE(session.prompts("> "));
    session.type("one\\\n");
    ASSERT_TRUE(session.prompts("... "));
    session.type("two\n");
    ASSERT_TRUE(session.shows("[line:one/two]"));
    ASSERT_TRUE(session.prompts("> "));
    session.type("dropped\x03");
    ASSERT_TRUE(session.shows("[interrupted:]"));
    ASSERT_TRUE(session.prompts("> "));
    session.type("\x04");
    ASSERT_TRUE(session.shows("[end:]"));
  }
  {
    Session session(file);
    ASSERT_TRUE(session.prompts("> "));
    session.type("\x10\x10\n");  // Ctrl-P twice
    ASSERT_TRUE(session.shows("[line:help h\u00e9]"));
    ASSERT_TRUE(session.prompts("> "));
    session.type("\x04");
    ASSERT_TRUE(session.shows("[end:]"));
  }
}

TEST(LineEditor, ReadsPlainInputWithoutATerminal) {
  if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) GTEST_SKIP() << "runs on a terminal";
  std::istringstream input("first\nsec\\\nond\n\nlast\\");
  std::streambuf* outer = std::cin.rdbuf(input.rdbuf());
  LineEditor editor("> ", {});
  std::string line, all;
  while (editor.read(line) == LineEditor::Status::line) all += "[" + line + "]";
  std::cin.rdbuf(outer);
  EXPECT_EQ(all, "[first][sec\nond][][last\n]");
}

TEST(LineEditor, HistoryFileFollowsTheEnvironment) {
  setenv("XDG_STATE_HOME", "/x/state", 1);
  EXPECT_EQ(default_history_file(), "/x/state/tenfold/history");
  setenv("XDG_STATE_HOME", "relative", 1);
  setenv("HOME", "/x/home", 1);
  EXPECT_EQ(default_history_file(), "/x/home/.local/state/tenfold/history");
  unsetenv("XDG_STATE_HOME");
  unsetenv("HOME");
  EXPECT_EQ(default_history_file(), "");
}

}  // namespace
}  // namespace tenfold
