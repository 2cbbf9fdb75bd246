#include "runtime/chat_template.h"

#include <algorithm>

#include "kernels/error.h"
#include "runtime/jinja/eval.h"
#include "runtime/jinja/json.h"
#include "runtime/jinja/parser.h"
#include "runtime/utf8.h"

namespace tenfold {

struct ChatTemplate::Program {
  jinja::Block block;
};

namespace {

// As Jinja2 reads a template: line ends become "\n" and one at the very end is dropped.
std::string normalized(std::string_view source) {
  if (source.size() > jinja::kMaxTemplateBytes)
    throw_error(ErrorCode::bad_file, "chat template: {} bytes, at most {} are supported",
                source.size(), jinja::kMaxTemplateBytes);
  const std::size_t invalid = first_invalid_utf8(source);
  if (invalid != std::string_view::npos)
    throw_error(ErrorCode::bad_file, "chat template: byte {} is not valid UTF-8", invalid);
  std::string text;
  text.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r' && i + 1 < source.size() && source[i + 1] == '\n') continue;
    text += source[i] == '\r' ? '\n' : source[i];
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

template <typename Json>
std::string render_with(const jinja::Block& block, const Json& variables) {
  if (!variables.is_object())
    throw_error(ErrorCode::bad_request, "chat template: the variables are {}, expected an object",
                variables.type_name());
  jinja::Heap heap;
  int line = 0;
  try {
    jinja::Interpreter interpreter(heap, jinja::from_json(heap, variables));
    try {
      return interpreter.render(block);
    } catch (const jinja::Failure&) {
      line = interpreter.line();
      throw;
    }
  } catch (const jinja::Failure& failure) {
    if (line == 0) throw_error(ErrorCode::bad_request, "chat template: {}", failure.what());
    throw_error(ErrorCode::bad_file, "chat template, line {}: {}", line, failure.what());
  }
}

}  // namespace

ChatTemplate::ChatTemplate(std::string_view source)
    : program_(std::make_unique<Program>(Program{jinja::parse(normalized(source))})) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

std::vector<TokenId> encode_chat(const Tokenizer& tokenizer, std::string_view text) {
  const std::string bos = special_text(tokenizer, tokenizer.bos);
  EncodeOptions options;
  options.add_bos = tokenizer.adds_bos && (bos.empty() || text.rfind(bos, 0) != 0);
  return tokenizer.encode(text, options);
}

std::string special_text(const Tokenizer& tokenizer, std::optional<TokenId> id) {
  return id ? tokenizer.piece(*id, true) : std::string();
}

std::string ChatTemplate::render(const nlohmann::json& variables) const {
  return render_with(program_->block, variables);
}

std::string ChatTemplate::render(const nlohmann::ordered_json& variables) const {
  return render_with(program_->block, variables);
}

std::string ChatTemplate::render(std::span<const ChatMessage> messages, bool add_generation_prompt,
                                 std::string_view bos_token, std::string_view eos_token) const {
  auto list = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages)
    list.push_back({{"role", message.role}, {"content", message.content}});
  nlohmann::ordered_json variables = {{"messages", std::move(list)},
                                      {"add_generation_prompt", add_generation_prompt},
                                      {"bos_token", bos_token},
                                      {"eos_token", eos_token}};
  return render(variables);
}

}  // namespace tenfold
