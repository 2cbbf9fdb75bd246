#include "tools/chat_session.h"

#include <algorithm>
#include <utility>

#include "kernels/error.h"

namespace tenfold {
namespace {

constexpr std::int64_t kAnswerRoom = 512;  // tokens kept free for an answer, where possible

std::string_view template_source(const Tokenizer& tokenizer) {
  return tokenizer.chat_template.empty() ? kPlainChatTemplate
                                         : std::string_view(tokenizer.chat_template);
}

}  // namespace

ChatSession::ChatSession(const LoadedModel& loaded, GenerateOptions generation,
                         std::int64_t context, KvType kv)
    : loaded_(&loaded),
      tokenizer_(loaded.tokenizer.get()),
      own_template_(!tokenizer_->chat_template.empty()),
      template_(template_source(*tokenizer_)),
      bos_(special_text(*tokenizer_, tokenizer_->bos)),
      eos_(special_text(*tokenizer_, tokenizer_->eos)),
      generation_(std::move(generation)),
      session_(*loaded.model, *loaded.ws, context, kv) {
  if (!own_template_) generation_.stops.emplace_back(kPlainChatStop);
  if (generation_.grammar != nullptr) {
    generation_.pieces = std::make_shared<const VocabularyPieces>(*tokenizer_);
  }
}

std::size_t ChatSession::first_turn() const noexcept {
  return !messages_.empty() && messages_.front().role == "system" ? 1 : 0;
}

std::vector<TokenId> ChatSession::encode(std::size_t left_out) const {
  std::vector<ChatMessage> shown = messages_;
  const auto begin = shown.begin() + static_cast<std::ptrdiff_t>(first_turn());
  shown.erase(begin, begin + static_cast<std::ptrdiff_t>(left_out));
  const std::string text = template_.render(shown, true, bos_, eos_);
  return encode_chat(*tokenizer_, text);
}

bool ChatSession::leave_out_oldest() noexcept {
  const std::size_t first = first_turn();
  std::size_t next = first + left_out_ + 1;
  while (next < messages_.size() && messages_[next].role != "user") ++next;
  if (next >= messages_.size()) return false;
  left_out_ = next - first;
  return true;
}

std::vector<TokenId> ChatSession::prompt() {
  const std::int64_t context = session_.context();
  const std::int64_t wanted = std::min({context / 4, kAnswerRoom, generation_.max_tokens});
  while (true) {
    std::vector<TokenId> ids = encode(left_out_);
    const auto n = static_cast<std::int64_t>(ids.size());
    if (n + wanted <= context || (!leave_out_oldest() && n < context)) return ids;
    if (n >= context && first_turn() + left_out_ + 1 >= messages_.size()) {
      throw_error(ErrorCode::bad_request,
                  "the message makes a prompt of {} tokens, but the context is {}", n, context);
    }
  }
}

GenerateResult ChatSession::ask(std::string text, const GenerateCallbacks& callbacks) {
  messages_.push_back({"user", std::move(text)});
  GenerateOptions options = generation_;
  options.sampler.seed += turns_++;  // another draw for each answer, the same in each run
  try {
    GenerateResult result = generate(session_, tokenizer_, prompt(), options, callbacks);
    if (result.finish == FinishReason::cancelled && result.text.empty()) {
      messages_.pop_back();
    } else {
      messages_.push_back({"assistant", result.text});
    }
    return result;
  } catch (...) {
    messages_.pop_back();
    throw;
  }
}

void ChatSession::set_messages(std::vector<ChatMessage> messages) {
  messages_ = std::move(messages);
  left_out_ = 0;
}

void ChatSession::set_system(std::string text) {
  if (first_turn() == 1) messages_.erase(messages_.begin());
  if (!text.empty()) messages_.insert(messages_.begin(), {"system", std::move(text)});
}

void ChatSession::clear() {
  messages_.resize(first_turn());
  left_out_ = 0;
}

std::optional<std::string> ChatSession::undo() {
  const auto last = std::find_if(messages_.rbegin(), messages_.rend(),
                                 [](const ChatMessage& m) { return m.role == "user"; });
  if (last == messages_.rend()) return std::nullopt;
  std::string text = last->content;
  messages_.erase(std::prev(last.base()), messages_.end());
  left_out_ = 0;
  return text;
}

}  // namespace tenfold
