#include "tools/chat_commands.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "runtime/files/json_file.h"
#include "runtime/files/output_file.h"
#include "tools/io.h"

namespace tenfold {
namespace {

constexpr const char* kHelp =
    "/help             show this\n"
    "/regen            answer the last message again\n"
    "/edit [TEXT]      replace the last message and answer it\n"
    "/undo             take back the last message and its answer\n"
    "/system [TEXT]    set the system message; without text: remove it\n"
    "/save FILE        save the conversation as JSON\n"
    "/load FILE        continue a saved conversation\n"
    "/set [NAME VALUE] change a sampling option; without a name: show them\n"
    "/stats            speed and use of the context\n"
    "/clear            start anew, keeping the system message\n"
    "/exit             leave; so does Ctrl-D\n"
    "A \\ at the end of a line continues it on the next. Ctrl-C stops an answer.\n";

std::string_view trim(std::string_view text) {
  const std::size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

template <typename T>
T parse_number(std::string_view name, std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) {
    throw_error(ErrorCode::bad_request, "/set {} expects a number, found {}", name, text);
  }
  return value;
}

struct FloatOption {
  std::string_view name;
  float SamplerOptions::*value;
};
constexpr std::array<FloatOption, 6> kFloatOptions = {
    FloatOption{"temp", &SamplerOptions::temperature},
    FloatOption{"top-p", &SamplerOptions::top_p},
    FloatOption{"min-p", &SamplerOptions::min_p},
    FloatOption{"repeat-penalty", &SamplerOptions::repeat_penalty},
    FloatOption{"presence-penalty", &SamplerOptions::presence_penalty},
    FloatOption{"frequency-penalty", &SamplerOptions::frequency_penalty}};

std::string show_options(const GenerateOptions& options) {
  std::string text;
  for (const FloatOption& option : kFloatOptions) {
    text += fmt::format("{} {}, ", option.name, options.sampler.*option.value);
  }
  text += fmt::format("top-k {}, seed {}, n ", options.sampler.top_k, options.sampler.seed);
  const bool limited = options.max_tokens != std::numeric_limits<std::int64_t>::max();
  return text + (limited ? fmt::format("{}\n", options.max_tokens) : "unlimited\n");
}

void set_option(GenerateOptions& options, std::string_view name, std::string_view text) {
  const auto option = std::find_if(kFloatOptions.begin(), kFloatOptions.end(),
                                   [&](const FloatOption& o) { return o.name == name; });
  if (option != kFloatOptions.end()) {
    options.sampler.*option->value = parse_number<float>(name, text);
  } else if (name == "top-k") {
    options.sampler.top_k = parse_number<int>(name, text);
  } else if (name == "seed") {
    options.sampler.seed = parse_number<std::uint64_t>(name, text);
  } else if (name == "n") {
    options.max_tokens = parse_number<std::int64_t>(name, text);
    if (options.max_tokens < 1) {
      throw_error(ErrorCode::bad_request, "/set n must be at least 1, found {}", text);
    }
  } else {
    throw_error(ErrorCode::bad_request, "/set knows no option {}; /set alone shows them", name);
  }
}

std::string run_set(ChatSession& session, std::string_view arguments) {
  if (!arguments.empty()) {
    const std::size_t space = arguments.find(' ');
    const std::string_view name = arguments.substr(0, space);
    const std::string_view value =
        space == std::string_view::npos ? std::string_view{} : trim(arguments.substr(space));
    GenerateOptions changed = session.generation();
    set_option(changed, name, value);
    validate(changed.sampler, session.vocab());
    session.generation() = std::move(changed);
  }
  return show_options(session.generation());
}

std::string show_stats(const ChatState& state) {
  std::string text = fmt::format("context: {} of {} tokens in use\n", state.session.context_used(),
                                 state.session.context());
  if (!state.last) return text;
  const GenerateResult& last = *state.last;
  const auto generated = static_cast<std::int64_t>(last.tokens.size());
  const std::int64_t run = last.prompt_tokens - last.reused_tokens;
  return text + fmt::format(
                    "prompt: {} tokens, {} of them new, {:.1f} tokens/s\n"
                    "answer: {} tokens, {:.1f} tokens/s, ended by {}\n",
                    last.prompt_tokens, run, per_second(run, last.prompt_seconds), generated,
                    per_second(generated, last.generate_seconds), to_string(last.finish));
}

std::string required_path(std::string_view command, std::string_view argument) {
  if (argument.empty()) throw_error(ErrorCode::bad_request, "{} needs a file name", command);
  return std::string(argument);
}

std::string run_save(ChatState& state, std::string_view argument) {
  const std::filesystem::path path = required_path("/save", argument);
  std::error_code ignored;
  if (path != state.file && std::filesystem::exists(path, ignored)) {
    throw_error(ErrorCode::io, "{}: exists already; choose another name", path.string());
  }
  save_chat(path, path == state.file, state.session.messages());
  state.file = path;
  return fmt::format("saved {} messages to {}\n", state.session.messages().size(), path.string());
}

std::string run_load(ChatState& state, std::string_view argument) {
  const std::filesystem::path path = required_path("/load", argument);
  state.session.set_messages(load_chat(path));
  state.file = path;
  return fmt::format("loaded {} messages from {}\n", state.session.messages().size(),
                     path.string());
}

std::string taken_back(ChatSession& session) {
  std::optional<std::string> text = session.undo();
  if (!text) throw_error(ErrorCode::bad_request, "there is no message yet");
  return *text;
}

std::string run_system(ChatSession& session, std::string_view text) {
  session.set_system(std::string(text));
  return text.empty() ? "no system message\n" : "system message set\n";
}

std::string run_plain_command(ChatState& state, std::string_view name, std::string_view rest) {
  if (name == "/help") return kHelp;
  if (name == "/set") return run_set(state.session, rest);
  if (name == "/stats") return show_stats(state);
  if (name == "/system") return run_system(state.session, rest);
  if (name == "/save") return run_save(state, rest);
  if (name == "/load") return run_load(state, rest);
  if (name == "/undo") return fmt::format("took back: {}\n", taken_back(state.session));
  if (name == "/clear") {
    state.session.clear();
    return "the conversation is empty\n";
  }
  throw_error(ErrorCode::bad_request, "{} is no command; /help lists them", name);
}

}  // namespace

ChatAction run_chat_line(ChatState& state, const std::string& line) {
  using Kind = ChatAction::Kind;
  const std::string_view text = trim(line);
  if (text.empty()) return {};
  if (text.front() != '/') {
    check_utf8(text, "the message", ErrorCode::bad_request);
    return {Kind::ask, line, {}};
  }
  check_utf8(text, "the command", ErrorCode::bad_request);
  const std::size_t space = text.find(' ');
  const std::string_view name = text.substr(0, space);
  const std::string_view rest =
      space == std::string_view::npos ? std::string_view{} : trim(text.substr(space));
  if (name == "/exit") return {Kind::quit, {}, {}};
  if (name == "/regen") return {Kind::ask, taken_back(state.session), {}};
  if (name == "/edit") {
    std::string old = taken_back(state.session);
    if (rest.empty()) return {Kind::edit, std::move(old), {}};
    return {Kind::ask, std::string(rest), {}};
  }
  return {Kind::none, {}, run_plain_command(state, name, rest)};
}

std::vector<ChatMessage> load_chat(const std::filesystem::path& path) {
  const nlohmann::json json = read_json_file(path);
  const std::string name = path.string();
  if (!json.is_object() || !json.contains("messages") || !json["messages"].is_array()) {
    throw_file_error(name, "expected an object with an array \"messages\"");
  }
  std::vector<ChatMessage> messages;
  for (const nlohmann::json& entry : json["messages"]) {
    if (!entry.is_object()) {
      throw_file_error(name, "message {} is not an object", messages.size());
    }
    ChatMessage message{json_string_or(entry, "role", "", name),
                        json_string_or(entry, "content", "", name)};
    const bool system = message.role == "system" && messages.empty();
    if (!system && message.role != "user" && message.role != "assistant") {
      throw_file_error(name, "message {}: the role must be user, assistant or (first) system",
                       messages.size());
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

void save_chat(const std::filesystem::path& path, bool overwrite,
               std::span<const ChatMessage> messages) {
  nlohmann::ordered_json json;
  json["messages"] = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages) {
    json["messages"].push_back({{"role", message.role}, {"content", message.content}});
  }
  OutputFile file(path, overwrite);
  file.write(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  file.commit();
}

}  // namespace tenfold
