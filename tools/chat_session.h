#pragma once
// A conversation: its messages, the prompt that the chat template makes of them, and the answers.
// Where it outgrows the context the oldest turns are left out of the prompt, not out of the
// history. The loaded model outlives the session.

#include <optional>
#include <string>
#include <vector>

#include "runtime/chat_template.h"
#include "tools/load.h"

namespace tenfold {

class ChatSession {
 public:
  ChatSession(const LoadedModel& loaded, GenerateOptions generation, std::int64_t context,
              KvType kv);

  // Adds the user's message and the model's answer. Where there is no answer (an Error, or
  // cancelled before the first word) the message is taken back.
  GenerateResult ask(std::string text, const GenerateCallbacks& callbacks);

  // A system message, if any, is the first.
  const std::vector<ChatMessage>& messages() const noexcept { return messages_; }
  void set_messages(std::vector<ChatMessage> messages);
  void set_system(std::string text);  // empty: none
  void clear();                       // keeps the system message
  // Takes back the last user message and what follows it; returns that message.
  std::optional<std::string> undo();

  GenerateOptions& generation() noexcept { return generation_; }
  std::int64_t vocab() const noexcept { return loaded_->model->info().vocab; }
  bool has_own_template() const noexcept { return own_template_; }
  std::size_t left_out() const noexcept { return left_out_; }  // messages, of the last prompt
  std::int64_t context() const noexcept { return session_.context(); }
  std::int64_t context_used() const noexcept { return session_.context() - session_.room(); }

 private:
  std::size_t first_turn() const noexcept;
  std::vector<TokenId> prompt();
  std::vector<TokenId> encode(std::size_t left_out) const;
  bool leave_out_oldest() noexcept;

  const LoadedModel* loaded_;
  const Tokenizer* tokenizer_;
  bool own_template_;
  ChatTemplate template_;
  std::string bos_, eos_;
  GenerateOptions generation_;
  Session session_;
  std::vector<ChatMessage> messages_;
  std::size_t left_out_ = 0;
  std::uint64_t turns_ = 0;
};

}  // namespace tenfold
