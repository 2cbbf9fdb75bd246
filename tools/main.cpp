// The command line: parses, runs one subcommand, and turns whatever goes wrong into one sentence
// and an exit code.

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <new>
#include <span>

#include "kernels/error.h"
#include "tools/args.h"

namespace tenfold {
namespace {

constexpr const char* kVersion = "tenfold 0.1.0";

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::bad_file:
    case ErrorCode::unsupported:
      return kExitBadFile;
    case ErrorCode::bad_request:
      return kExitUsage;
    case ErrorCode::cancelled:
      return kExitInterrupted;
    case ErrorCode::io:
    case ErrorCode::out_of_memory:
    case ErrorCode::device:
      break;
  }
  return kExitFailure;
}

// One line whatever the message holds.
int fail(std::string message, int code) {
  std::replace_if(
      message.begin(), message.end(),
      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, ' ');
  fmt::print(stderr, "tenfold: {}\n", message);
  return code;
}

int usage_error(const CLI::App& app, const std::string& message) {
  std::string command = "tenfold";
  for (const CLI::App* sub : app.get_subcommands()) command += " " + sub->get_name();
  return fail(fmt::format("{}; see {} --help", message, command), kExitUsage);
}

int parse_and_run(int argc, char** argv) {
  CLI::App app("Tenfold runs and makes large language models of 1 to 4 bits a weight.", "tenfold");
  app.set_version_flag("--version", kVersion);
  app.footer("Example:\n  tenfold chat -m MODEL\nEvery command has its own --help.");
  const std::vector<Command> commands = {
      add_chat(app),     add_generate(app), add_serve(app),   add_quantize(app), add_eval(app),
      add_bench(app),    add_inspect(app),  add_convert(app), add_export(app),   add_report(app),
      add_tokenize(app), add_logits(app),   add_devices(app)};
  app.require_subcommand(1);
  std::string names;
  for (const Command& command : commands) {
    names += (names.empty() ? "" : ", ") + command.app->get_name();
  }
  if (argc < 2) return usage_error(app, "name a command: " + names);
  const std::string first = argv[1];
  const bool known = std::any_of(commands.begin(), commands.end(), [&](const Command& command) {
    return command.app->get_name() == first;
  });
  if (!known && first.front() != '-') {
    return usage_error(app, fmt::format("unknown command {}; the commands are {}", first, names));
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return usage_error(app, error.what());
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return command.run();
  }
  return kExitOk;
}

}  // namespace
}  // namespace tenfold

int main(int argc, char** argv) {
  using namespace tenfold;
  std::signal(SIGXFSZ, SIG_IGN);  // a file-size limit is an error of write() like any other
  try {
    return parse_and_run(argc, argv);
  } catch (const Error& error) {
    return fail(error.what(), exit_code(error.code()));
  } catch (const std::bad_alloc&) {
    return fail("out of memory", kExitFailure);
  } catch (const std::exception& error) {
    return fail(error.what(), kExitFailure);
  }
}
