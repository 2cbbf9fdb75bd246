#include "tools/line_editor.h"

#include <histedit.h>
#include <langinfo.h>
#include <unistd.h>

#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string_view>
#include <system_error>
#include <utility>

#include "tools/io.h"

namespace tenfold {

struct LineEditor::Terminal {
  std::string prompt;
  std::string continuation = "... ";
  bool continues = false;
  bool interrupted = false;
  std::unique_ptr<EditLine, decltype(&el_end)> editor{nullptr, el_end};
  std::unique_ptr<History, decltype(&history_end)> history{nullptr, history_end};
};

namespace {

template <typename State>
State& state_of(EditLine* editor) {
  void* state = nullptr;
  el_get(editor, EL_CLIENTDATA, &state);
  return *static_cast<State*>(state);
}

void use_utf8_locale() {
  std::setlocale(LC_CTYPE, "");
  if (std::string_view(nl_langinfo(CODESET)) != "UTF-8") std::setlocale(LC_CTYPE, "C.UTF-8");
}

bool has_terminal() {
  const char* term = std::getenv("TERM");
  const bool dumb = !term || std::string_view(term).empty() || std::string_view(term) == "dumb";
  return !dumb && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
}

}  // namespace

LineEditor::LineEditor(std::string prompt, std::filesystem::path history_file)
    : history_file_(std::move(history_file)) {
  if (!has_terminal()) return;
  use_utf8_locale();
  auto terminal = std::make_unique<Terminal>();
  terminal->editor.reset(el_init("tenfold", stdin, stdout, stderr));
  terminal->history.reset(history_init());
  if (!terminal->editor || !terminal->history) return;
  terminal->prompt = std::move(prompt);

  EditLine* editor = terminal->editor.get();
  el_set(editor, EL_CLIENTDATA, static_cast<void*>(terminal.get()));
  el_set(
      editor, EL_PROMPT, +[](EditLine* e) {
        Terminal& t = state_of<Terminal>(e);
        return (t.continues ? t.continuation : t.prompt).data();
      });
  el_set(editor, EL_EDITOR, "emacs");
  el_set(editor, EL_SIGNAL, 1);  // redraws after a resize, restores the terminal when killed
  el_set(
      editor, EL_ADDFN, "tenfold-interrupt", "Drop the line",
      +[](EditLine* e, int) -> unsigned char {
        state_of<Terminal>(e).interrupted = true;
        return CC_EOF;
      });
  el_set(editor, EL_SETTY, "-d", "-isig", nullptr);
  el_set(editor, EL_BIND, "^C", "tenfold-interrupt", nullptr);
  el_set(editor, EL_BIND, "^R", "em-inc-search-prev", nullptr);

  HistEvent event;
  History* history = terminal->history.get();
  ::history(history, &event, H_SETSIZE, kMaxHistory);
  ::history(history, &event, H_SETUNIQUE, 1);
  el_set(editor, EL_HIST, ::history, history);
  if (!history_file_.empty()) ::history(history, &event, H_LOAD, history_file_.c_str());
  terminal_ = std::move(terminal);
}

LineEditor::~LineEditor() = default;

void LineEditor::set_prompt(std::string prompt) {
  if (terminal_) terminal_->prompt = std::move(prompt);
}

LineEditor::Status LineEditor::read(std::string& line) {
  line.clear();
  if (terminal_) terminal_->continues = false;
  while (true) {
    std::string part;
    const Status status = read_part(part);
    if (status == Status::interrupted) line.clear();
    // Input that ends after a backslash still gives the line before it.
    if (status == Status::end && !line.empty()) break;
    if (status != Status::line) return status;
    line += part;
    if (!part.ends_with('\\')) break;
    line.back() = '\n';
    if (terminal_) terminal_->continues = true;
  }
  remember(line);
  return Status::line;
}

LineEditor::Status LineEditor::read_part(std::string& part) {
  if (!terminal_) return std::getline(std::cin, part) ? Status::line : Status::end;
  terminal_->interrupted = false;
  int count = 0;
  const char* text = el_gets(terminal_->editor.get(), &count);
  if (terminal_->interrupted || !text || count <= 0) {
    std::fputs(terminal_->interrupted ? "^C\n" : "\n", stdout);
    std::fflush(stdout);
    return terminal_->interrupted ? Status::interrupted : Status::end;
  }
  part = text;
  if (part.ends_with('\n')) part.pop_back();
  return Status::line;
}

void LineEditor::remember(const std::string& line) {
  if (!terminal_ || line.find_first_not_of(" \t\n") == std::string::npos) return;
  HistEvent event;
  ::history(terminal_->history.get(), &event, H_ENTER, line.c_str());
  if (history_file_.empty()) return;
  std::error_code ignored;
  std::filesystem::create_directories(history_file_.parent_path(), ignored);
  ::history(terminal_->history.get(), &event, H_SAVE, history_file_.c_str());
}

std::filesystem::path default_history_file() {
  const std::filesystem::path folder = user_folder("XDG_STATE_HOME", ".local/state");
  return folder.empty() ? folder : folder / "history";
}

}  // namespace tenfold
