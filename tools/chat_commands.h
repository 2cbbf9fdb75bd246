#pragma once
// What a line of the interactive chat asks for: a message to the model, or a /command.

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "tools/chat_session.h"

namespace tenfold {

struct ChatState {
  ChatSession session;
  std::optional<GenerateResult> last;  // for /stats
  std::filesystem::path file;          // saved to or loaded from
};

struct ChatAction {
  enum class Kind { none, ask, edit, quit } kind = Kind::none;
  std::string text;   // ask: the message; edit: the message to replace
  std::string reply;  // what to show, lines ended
};

// Carries out a line. /regen and /edit take back the last turn and return what to ask again.
// Throws Error with a sentence for the user; the conversation is as before then.
ChatAction run_chat_line(ChatState& state, const std::string& line);

// {"messages": [{"role": ..., "content": ...}, ...]}
std::vector<ChatMessage> load_chat(const std::filesystem::path& path);
void save_chat(const std::filesystem::path& path, bool overwrite,
               std::span<const ChatMessage> messages);

}  // namespace tenfold
