#pragma once
// Chat templates: the Jinja2 subset that real templates use, run by a small sandboxed interpreter.
// It sees only the variables given here; it has no files, no attributes of host objects, no
// imports; recursion depth, loop steps and output size are limited.
// Rendered the way Hugging Face does: trim_blocks, lstrip_blocks, no autoescape.

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer.h"

namespace tenfold {

struct ChatMessage {
  std::string role, content;
};

class ChatTemplate {
 public:
  // Throws bad_file ("chat template, line 3: ...") on a syntax error or an unsupported construct.
  explicit ChatTemplate(std::string_view source);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // variables: a JSON object (messages, add_generation_prompt, bos_token, eos_token, tools, ...).
  // Throws bad_request with the template's own text for raise_exception(), else bad_file.
  // ordered_json keeps the order of keys, which shows where a template prints tools as JSON.
  std::string render(const nlohmann::json& variables) const;
  std::string render(const nlohmann::ordered_json& variables) const;
  std::string render(std::span<const ChatMessage> messages, bool add_generation_prompt,
                     std::string_view bos_token, std::string_view eos_token) const;

 private:
  struct Program;
  std::unique_ptr<Program> program_;
};

// For a model without a template: "User: ...\nAssistant: ..." lines.
inline constexpr std::string_view kPlainChatTemplate =
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ message['content'] }}\n\n"
    "{% elif message['role'] == 'user' %}User: {{ message['content'] }}\n"
    "{% else %}Assistant: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}";

// Without a template of its own a model writes on as the user: this ends the answer.
inline constexpr std::string_view kPlainChatStop = "\nUser:";

// A rendered chat as tokens: BOS comes first by the model's rule, unless the template has put it.
std::vector<TokenId> encode_chat(const Tokenizer& tokenizer, std::string_view text);
// "<s>"; empty where the model has no such token.
std::string special_text(const Tokenizer& tokenizer, std::optional<TokenId> id);

}  // namespace tenfold
