#include <unistd.h>

#include <algorithm>
#include <limits>

#include "tools/args.h"
#include "tools/chat_commands.h"
#include "tools/io.h"
#include "tools/line_editor.h"
#include "tools/signals.h"

namespace tenfold {
namespace {

constexpr const char* kPrompt = "> ";

struct Options {
  CommonOptions common;
  SamplingOptions sampling;
  std::string system;
  std::int64_t context = 0;
};

GenerateCallbacks streaming() {
  GenerateCallbacks callbacks;
  callbacks.on_text = print_model_text;
  callbacks.should_stop = [] { return stop_requested(); };
  return callbacks;
}

// One turn from standard input.
int run_piped(ChatState& state) {
  std::string text = read_text("-");
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r')) text.pop_back();
  if (text.empty()) {
    throw_error(ErrorCode::bad_request,
                "standard input is empty: pipe a message in, or chat in a terminal");
  }
  catch_interrupts();
  const GenerateResult result = state.session.ask(std::move(text), streaming());
  print("\n");
  return result.finish == FinishReason::cancelled ? kExitInterrupted : kExitOk;
}

void tell_end(const ChatState& state, std::size_t left_out_before) {
  const GenerateResult& result = *state.last;
  if (result.finish == FinishReason::cancelled) {
    print(result.text.empty() ? "[stopped; the message is taken back]\n" : "[stopped]\n");
  } else if (result.finish == FinishReason::context) {
    print(fmt::format("[the context of {} tokens is full]\n", state.session.context()));
  } else if (result.finish == FinishReason::length) {
    print("[the limit of n tokens is reached]\n");
  }
  if (state.session.left_out() > left_out_before) {
    print(
        fmt::format("[the oldest {} messages no longer fit in the context of {} tokens and were "
                    "left out of the prompt]\n",
                    state.session.left_out(), state.session.context()));
  }
}

void answer(ChatState& state, std::string text) {
  const std::size_t left_out = state.session.left_out();
  clear_interrupts();
  try {
    state.last = state.session.ask(std::move(text), streaming());
  } catch (const Error& error) {
    if (error.code() != ErrorCode::cancelled) throw;
    print("[stopped; the message is taken back]\n");
    return;
  }
  print("\n");
  tell_end(state, left_out);
}

// The terminal's side of the chat: lines, and how often Ctrl-C was pressed in a row.
class Console {
 public:
  Console() : editor_(kPrompt, default_history_file()) {}

  enum class Input { line, again, quit_end, quit_interrupt };
  // A signal that comes while no line is being edited counts as a key press.
  Input read(std::string& line) {
    if (interrupts() > 0) return interrupt();
    const LineEditor::Status status = editor_.read(line);
    if (status == LineEditor::Status::interrupted) return interrupt();
    if (status == LineEditor::Status::end) {
      return interrupts() > 0 ? Input::quit_interrupt : Input::quit_end;
    }
    interrupts_ = 0;
    return Input::line;
  }
  // Counts a Ctrl-C that stopped an answer: the next one quits.
  void count(int interrupts) { interrupts_ += interrupts; }
  bool quits() const { return interrupts_ > 1; }

 private:
  Input interrupt() {
    interrupts_ += std::max(1, interrupts());
    clear_interrupts();
    if (interrupts_ > 1) return Input::quit_interrupt;
    print("[Ctrl-C again or /exit leaves]\n");
    return Input::again;
  }

  LineEditor editor_;
  int interrupts_ = 0;
};

void run_line(ChatState& state, Console& console, const std::string& line, bool& quit) {
  try {
    ChatAction action = run_chat_line(state, line);
    print(action.reply);
    if (action.kind == ChatAction::Kind::edit) {
      print(fmt::format("The message was: {}\nType the new one; an empty line takes it back.\n",
                        action.text));
    } else if (action.kind == ChatAction::Kind::ask) {
      answer(state, std::move(action.text));
    }
    quit = action.kind == ChatAction::Kind::quit;
  } catch (const Error& error) {
    note(error.what());
  }
  console.count(interrupts());
  clear_interrupts();
}

int run_interactive(ChatState& state) {
  print("Type a message; /help lists the commands.\n");
  Console console;
  catch_interrupts();
  std::string line;
  bool quit = false;
  while (!quit) {
    switch (console.read(line)) {
      case Console::Input::again:
        continue;
      case Console::Input::quit_end:
        print("\n");
        return kExitOk;
      case Console::Input::quit_interrupt:
        return kExitInterrupted;
      case Console::Input::line:
        break;
    }
    run_line(state, console, line, quit);
    if (console.quits()) return kExitInterrupted;
  }
  return kExitOk;
}

int run(const Options& options) {
  GenerateOptions generation = options.sampling.resolve();
  check_utf8(options.system, "the system message (--system)", ErrorCode::bad_request);
  const KvType kv = options.common.kv_or(KvType::f16);
  const LoadedModel loaded = load(options.common, options.context, kv);
  require_tokenizer(loaded, options.common);
  validate(generation.sampler, loaded.model->info().vocab);
  ChatState state{ChatSession(loaded, std::move(generation), options.context, kv), {}, {}};
  state.session.set_system(options.system);
  if (!options.common.quiet && !state.session.has_own_template()) {
    note("This model has no chat template: a plain one, \"User: ... Assistant: ...\", is used.");
  }
  return ::isatty(STDIN_FILENO) != 0 ? run_interactive(state) : run_piped(state);
}

}  // namespace

Command add_chat(CLI::App& app) {
  auto options = std::make_shared<Options>();
  options->sampling.generate.max_tokens = std::numeric_limits<std::int64_t>::max();
  CLI::App* sub = app.add_subcommand("chat", "Chat with a model in the terminal");
  add_common_options(*sub, options->common, ModelArgument::option);
  sub->add_option("--system", options->system, "the system message")->type_name("TEXT");
  sub->add_option("-c,--ctx-size", options->context, "context in tokens; default: the model's")
      ->check(in_range(1, kMaxCount))
      ->type_name("CTX");
  sub->add_option("-n,--n-predict", options->sampling.generate.max_tokens,
                  "tokens of an answer at most; default: what the context holds")
      ->check(in_range(1, kMaxCount))
      ->type_name("N");
  add_sampling_options(*sub, options->sampling);
  sub->footer(
      "In a terminal, /help lists what else can be typed. Input from a pipe is one message.\n"
      "Examples:\n  tenfold chat -m MODEL --system 'Answer in one sentence.'\n"
      "  echo 'Why is the sky blue?' | tenfold chat -m MODEL");
  return {sub, [options] { return run(*options); }};
}

}  // namespace tenfold
