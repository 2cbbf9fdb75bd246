#pragma once
// Reads lines a person types: editing and history through libedit when stdin and stdout are a
// terminal, plain std::getline otherwise (no prompt, no escape codes). A line that ends in a
// backslash goes on in the next one; the parts are joined by "\n".
//
// One LineEditor at a time, on one thread. On a terminal the constructor sets LC_CTYPE to a UTF-8
// locale, because libedit needs it to count columns. While a line is edited Ctrl-C is a key, not a
// signal, so it comes back as Status::interrupted with the terminal already restored.

#include <filesystem>
#include <memory>
#include <string>

namespace tenfold {

class LineEditor {
 public:
  enum class Status {
    line,
    interrupted,  // Ctrl-C: what was typed is dropped
    end,          // Ctrl-D on an empty line, or end of input
  };

  static constexpr int kMaxHistory = 1000;

  // history_file: loaded now if it exists, saved after each line, with folders made as needed and
  // failures ignored; empty: no file.
  LineEditor(std::string prompt, std::filesystem::path history_file);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  Status read(std::string& line);  // without the line end; valid UTF-8 or not, as it came
  void set_prompt(std::string prompt);

 private:
  struct Terminal;  // libedit's state; null when there is no terminal
  Status read_part(std::string& part);
  void remember(const std::string& line);

  std::filesystem::path history_file_;
  std::unique_ptr<Terminal> terminal_;
};

// $XDG_STATE_HOME/tenfold/history, else ~/.local/state/tenfold/history, else empty.
std::filesystem::path default_history_file();

}  // namespace tenfold
